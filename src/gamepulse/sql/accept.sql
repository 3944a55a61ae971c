-- name: commit
-- One statement stores a whole group: what its batch_key row is new for, is stored; the rest are duplicates.
WITH fresh AS (
    INSERT INTO batch_key (studio_id, game_id, batch_id, fingerprint, received_at, accepted, rejected)
    SELECT * FROM unnest($1::integer[], $2::integer[], $3::uuid[], $4::bigint[], $5::timestamptz[], $6::smallint[], $7::jsonb[])
    ON CONFLICT DO NOTHING
    RETURNING game_id, batch_id
), stored AS (
    INSERT INTO raw_batch (studio_id, game_id, session_id, received_at, clock_offset_ms, shard, rejected, country, subdivision,
        network, connection, platform, build, match, player, places, records, events, commit_span)
    SELECT studio_id, game_id, session_id, received_at, clock_offset_ms, shard, rejected, country, subdivision,
        network, connection, platform, build, match, player, places, records, events, $27
    FROM unnest($8::integer[], $9::integer[], $10::uuid[], $11::uuid[], $12::timestamptz[], $13::bigint[], $14::smallint[],
        $15::smallint[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::bytea[],
        $24::text[], $25::bytea[], $26::jsonb[])
        AS part (studio_id, game_id, batch_id, session_id, received_at, clock_offset_ms, shard, rejected, country, subdivision,
            network, connection, platform, build, match, player, places, records, events)
    WHERE (game_id, batch_id) IN (SELECT game_id, batch_id FROM fresh)
)
SELECT game_id, batch_id FROM fresh

-- name: known
-- What batches were first accepted with.
SELECT game_id, batch_id, fingerprint, accepted, rejected
FROM batch_key
JOIN unnest($1::integer[], $2::integer[], $3::uuid[]) AS asked (studio_id, game_id, batch_id) USING (studio_id, game_id, batch_id)

-- name: ingest_key
SELECT studio_id, game_id, slug, kind
FROM ingest_key JOIN game USING (studio_id, game_id)
WHERE key_hash = $1 AND revoked_at IS NULL
