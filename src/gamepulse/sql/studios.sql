-- name: lock
-- One change of a studio at a time: its limits and its last admin are counted before they are written.
SELECT pg_advisory_xact_lock($1, $2)

-- name: role
SELECT role FROM member WHERE studio_id = $1 AND account_id = $2

-- name: put_studio
SELECT put_studio($1)

-- name: account_named
SELECT account_named($1)

-- name: members
SELECT account_id, name, role, has_totp FROM member JOIN account USING (account_id) WHERE studio_id = $1 ORDER BY name

-- name: member
SELECT account_id, name, role, has_totp FROM member JOIN account USING (account_id) WHERE studio_id = $1 AND account_id = $2

-- name: count_members
SELECT count(*) FROM member WHERE studio_id = $1

-- name: other_admins
SELECT count(*) FROM member WHERE studio_id = $1 AND account_id <> $2 AND role = 'admin'

-- name: put_member
INSERT INTO member (studio_id, account_id, role) VALUES ($1, $2, $3) ON CONFLICT (studio_id, account_id) DO NOTHING

-- name: set_role
UPDATE member SET role = $3 WHERE studio_id = $1 AND account_id = $2

-- name: remove_member
DELETE FROM member WHERE studio_id = $1 AND account_id = $2

-- name: audit
INSERT INTO audit_log (studio_id, game_id, account_id, actor, action, about, subject) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: audit_log
SELECT entry_id, at, actor, account_id, action, slug AS game, about, subject
FROM audit_log LEFT JOIN game USING (studio_id, game_id)
WHERE studio_id = $1 AND entry_id < coalesce($2, 9223372036854775807)
ORDER BY entry_id DESC LIMIT $3
