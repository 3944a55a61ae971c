-- name: asker
SELECT account_id, name, has_totp, sign_in_id, studio_ids, roles FROM find_sign_in($1, $2, $3, $4)

-- name: game
SELECT studio_id, game_id, slug, is_public, raw_retention_days FROM game WHERE slug = $1
