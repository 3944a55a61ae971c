-- name: sampled_sessions
-- A random sample of a span's sessions, with how many reports they sent in its days. $6 bounds what is looked at.
SELECT session_id, sum(reports)::bigint AS reports
FROM (
    SELECT * FROM session_seen
    WHERE studio_id = $1 AND game_id = $2 AND day >= ($3 AT TIME ZONE 'UTC')::date AND day <= ($4 AT TIME ZONE 'UTC')::date
    ORDER BY uuid_hash(session_id) LIMIT $6
) AS walked
WHERE last_at >= $3 AND first_at < $4 AND reports > 0{filters}
GROUP BY session_id
ORDER BY uuid_hash(session_id)
LIMIT $5

-- name: sampled_batches
-- Reports are up to 24 h late and 5 min early.
SELECT session_id, received_at, labels, records FROM raw_batch
WHERE studio_id = $1 AND game_id = $2 AND session_id = ANY ($3::uuid[])
    AND received_at >= $4::timestamptz - interval '6 minutes' AND received_at < $5::timestamptz + interval '25 hours' AND length(records) > 0
