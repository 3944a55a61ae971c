-- name: create_account
SELECT create_account($1, $2)

-- name: find_account
SELECT account_id, password_hash FROM find_account($1)

-- name: own
-- One change of an account at a time.
SELECT name, password_hash, has_totp, totp_nonce, totp_pending, totp_step FROM account WHERE account_id = $1 FOR UPDATE

-- name: set_password
UPDATE account SET password_hash = $2 WHERE account_id = $1

-- name: set_totp_pending
UPDATE account SET totp_pending = $2 WHERE account_id = $1

-- name: confirm_totp
UPDATE account SET totp_nonce = totp_pending, totp_pending = NULL, totp_step = $2 WHERE account_id = $1

-- name: use_code
UPDATE account SET totp_step = $2 WHERE account_id = $1

-- name: reset_totp
UPDATE account SET totp_nonce = NULL, totp_pending = NULL WHERE account_id = $1

-- name: studios
SELECT studio_id, studio.name, role FROM member JOIN studio USING (studio_id) ORDER BY studio.name

-- name: make_room
-- Those that have expired, and the oldest beyond $4.
DELETE FROM sign_in WHERE account_id = $1 AND sign_in_id NOT IN (
    SELECT sign_in_id FROM sign_in WHERE account_id = $1 AND last_used_at > now() - $2::interval AND created_at > now() - $3::interval
    ORDER BY created_at DESC LIMIT $4)

-- name: put_sign_in
INSERT INTO sign_in (account_id, token_hash) VALUES ($1, $2) RETURNING sign_in_id, created_at + $3::interval AS expires_at

-- name: sign_ins
SELECT sign_in_id, created_at, last_used_at, created_at + $3::interval AS expires_at
FROM sign_in WHERE account_id = $1 AND last_used_at > now() - $2::interval AND created_at > now() - $3::interval
ORDER BY created_at DESC

-- name: end_sign_in
DELETE FROM sign_in WHERE account_id = $1 AND sign_in_id = $2

-- name: end_sign_ins
-- All but one.
DELETE FROM sign_in WHERE account_id = $1 AND sign_in_id IS DISTINCT FROM $2

-- name: audit
-- What an account does to itself, in each studio of which it is a member.
INSERT INTO audit_log (studio_id, account_id, actor, action, about) SELECT studio_id, $1, $2, $3, $4 FROM member WHERE account_id = $1
