-- name: games
SELECT game_id, slug, title, studio_id, is_public, profile, bad_rtt_ms, bad_jitter_ms, bad_loss, created_at, raw_retention_days
FROM game WHERE studio_id = $1 ORDER BY slug

-- name: game
SELECT game_id, slug, title, studio_id, is_public, profile, bad_rtt_ms, bad_jitter_ms, bad_loss, created_at, raw_retention_days
FROM game WHERE studio_id = $1 AND game_id = $2

-- name: count_games
SELECT count(*) FROM game WHERE studio_id = $1

-- name: put_game
INSERT INTO game (studio_id, slug, title, is_public, profile, bad_rtt_ms, bad_jitter_ms, bad_loss)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (slug) DO NOTHING RETURNING game_id

-- name: set_game
UPDATE game SET title = coalesce($3, title), is_public = coalesce($4, is_public),
    raw_retention_days = CASE WHEN $5 THEN $6 ELSE raw_retention_days END WHERE studio_id = $1 AND game_id = $2

-- name: set_thresholds
UPDATE game SET profile = $3, bad_rtt_ms = $4, bad_jitter_ms = $5, bad_loss = $6 WHERE studio_id = $1 AND game_id = $2

-- name: regions
SELECT region, title FROM game_region WHERE studio_id = $1 AND game_id = $2 ORDER BY region

-- name: undeclared
-- Seen since yesterday.
SELECT DISTINCT region FROM dimension
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND seen >= (now() AT TIME ZONE 'UTC')::date - 1
    AND region NOT IN (SELECT region FROM game_region WHERE studio_id = $1 AND game_id = $2)
ORDER BY region LIMIT $4

-- name: clear_regions
DELETE FROM game_region WHERE studio_id = $1 AND game_id = $2

-- name: put_regions
INSERT INTO game_region (studio_id, game_id, region, title) SELECT $1, $2, * FROM unnest($3::text[], $4::text[])

-- name: keys
SELECT key_id, kind, label, created_at FROM ingest_key
WHERE studio_id = $1 AND game_id = $2 AND revoked_at IS NULL ORDER BY key_id

-- name: count_keys
SELECT count(*) FROM ingest_key WHERE studio_id = $1 AND game_id = $2 AND revoked_at IS NULL

-- name: put_key
INSERT INTO ingest_key (studio_id, game_id, key_hash, kind, label) VALUES ($1, $2, $3, $4, $5)
RETURNING key_id, kind, label, created_at

-- name: revoke_key
UPDATE ingest_key SET revoked_at = now() WHERE studio_id = $1 AND game_id = $2 AND key_id = $3 AND revoked_at IS NULL
RETURNING key_id, kind, label
