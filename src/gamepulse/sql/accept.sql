-- name: commit
-- One statement stores a whole group: what its batch_key row is new for, is stored; the rest are duplicates.
WITH sent AS MATERIALIZED (
    SELECT * FROM unnest($1::integer[], $2::integer[], $3::uuid[], $4::bigint[], $5::smallint[], $6::jsonb[], $7::bigint[])
        WITH ORDINALITY AS sent (studio_id, game_id, batch_id, fingerprint, accepted, rejected, clock_offset_ms, number)
), fresh AS (
    INSERT INTO batch_key (studio_id, game_id, batch_id, fingerprint, received_at, accepted, rejected)
    SELECT studio_id, game_id, batch_id, fingerprint, $17, accepted, rejected FROM sent
    ON CONFLICT DO NOTHING
    RETURNING game_id, batch_id
), stored AS (
    INSERT INTO raw_batch (studio_id, game_id, received_at, clock_offset_ms, session_id, shard, rejected, labels, match, player,
        records, events, commit_span)
    SELECT studio_id, game_id, $17, clock_offset_ms, session_id, shard, part.rejected, labels, match, player, records, events, $18
    FROM fresh JOIN sent USING (game_id, batch_id) JOIN unnest($8::integer[], $9::uuid[], $10::smallint[], $11::smallint[],
        $12::text[], $13::text[], $14::bytea[], $15::bytea[], $16::jsonb[])
        AS part (number, session_id, shard, rejected, labels, match, player, records, events) USING (number)
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

-- name: game
SELECT studio_id, game_id, slug FROM game WHERE slug = $1
