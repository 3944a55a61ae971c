-- Who signs in (account, sign_in), where they belong (member), and what they set: games' thresholds, regions, keys.
-- The version before still works with it: columns are added, none taken away.

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['gamepulse_account', 'gamepulse_manage'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            RAISE DEBUG 'role % exists', name;
        END;
        EXECUTE format('GRANT %I TO %I', name, current_user);
    END LOOP;
END $$;

CREATE TABLE account (
    account_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9._-]{3,32}$'),
    password_hash text NOT NULL,             -- argon2id
    created_at timestamptz NOT NULL DEFAULT now(),
    totp_nonce bytea,                        -- the secret is made of it and of the service's own secret; null: not enrolled
    totp_pending bytea,                      -- the next one, until a code confirms it
    totp_step bigint NOT NULL DEFAULT 0,     -- of the last code taken: none is taken twice
    has_totp boolean NOT NULL GENERATED ALWAYS AS (totp_nonce IS NOT NULL) STORED
);

CREATE TABLE sign_in (
    account_id integer NOT NULL REFERENCES account ON DELETE CASCADE,
    sign_in_id uuid NOT NULL DEFAULT gen_random_uuid(),
    token_hash bytea NOT NULL UNIQUE,        -- SHA-256 of a 256-bit random token
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, sign_in_id)
);

CREATE TABLE member (
    studio_id integer NOT NULL REFERENCES studio,
    account_id integer NOT NULL REFERENCES account ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    PRIMARY KEY (studio_id, account_id)
);
CREATE INDEX ON member (account_id);

-- The thresholds of 0001 are those of `general`.
ALTER TABLE game
    ADD COLUMN title text NOT NULL DEFAULT '',
    ADD COLUMN profile text NOT NULL DEFAULT 'general',
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();

CREATE TABLE game_region (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    region text NOT NULL,
    title text NOT NULL,
    PRIMARY KEY (studio_id, game_id, region),
    FOREIGN KEY (studio_id, game_id) REFERENCES game
);

ALTER TABLE ingest_key
    ADD COLUMN key_id integer GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN label text NOT NULL DEFAULT '',
    ADD UNIQUE (studio_id, game_id, key_id);

ALTER TABLE audit_log
    ALTER game_id DROP NOT NULL,             -- null: it is about the studio
    ADD COLUMN entry_id bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN account_id integer,           -- no reference: the log outlives the account
    ADD COLUMN about text,                   -- whom or what; `subject` is a player's hash
    ADD PRIMARY KEY (studio_id, entry_id);

-- Nobody rewrites it, its owner neither; what is older than 400 days may go.
CREATE FUNCTION keep_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND old.at < now() - interval '400 days' THEN
        RETURN old;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION keep_audit_log();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_log();

-- Row-level security: gamepulse_account sees one account, gamepulse_manage one studio.
CREATE FUNCTION current_account() RETURNS integer LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('gamepulse.account_id', true), '')::integer $$;

ALTER TABLE account ENABLE ROW LEVEL SECURITY;
ALTER TABLE sign_in ENABLE ROW LEVEL SECURITY;
ALTER TABLE member ENABLE ROW LEVEL SECURITY;
ALTER TABLE game_region ENABLE ROW LEVEL SECURITY;

GRANT SELECT ON account, member, studio TO gamepulse_account;
GRANT UPDATE (password_hash, totp_nonce, totp_pending, totp_step) ON account TO gamepulse_account;
GRANT SELECT, INSERT, DELETE ON sign_in TO gamepulse_account;
GRANT SELECT (studio_id, game_id, slug, is_public) ON game TO gamepulse_account;
GRANT INSERT ON audit_log TO gamepulse_account;
CREATE POLICY account_own ON account TO gamepulse_account USING (account_id = current_account());
CREATE POLICY account_sign_ins ON sign_in TO gamepulse_account USING (account_id = current_account());
CREATE POLICY account_members ON member FOR SELECT TO gamepulse_account USING (account_id = current_account());
CREATE POLICY account_studios ON studio FOR SELECT TO gamepulse_account USING (studio_id IN (SELECT studio_id FROM member));
CREATE POLICY account_games ON game FOR SELECT TO gamepulse_account
    USING (is_public OR studio_id IN (SELECT studio_id FROM member));
CREATE POLICY account_audits ON audit_log FOR INSERT TO gamepulse_account
    WITH CHECK (account_id = current_account() AND studio_id IN (SELECT studio_id FROM member));

GRANT SELECT ON studio, game, game_region, member, audit_log TO gamepulse_manage;
GRANT SELECT (account_id, name, has_totp) ON account TO gamepulse_manage;
GRANT SELECT (studio_id, game_id, key_id, kind, label, created_at, revoked_at), INSERT, UPDATE (revoked_at) ON ingest_key
    TO gamepulse_manage;
GRANT SELECT (studio_id, game_id, dimension_set, region, seen) ON dimension TO gamepulse_manage;
GRANT INSERT, UPDATE ON game TO gamepulse_manage;
GRANT INSERT, DELETE ON game_region TO gamepulse_manage;
GRANT INSERT, UPDATE (role), DELETE ON member TO gamepulse_manage;
GRANT INSERT ON audit_log TO gamepulse_manage;
CREATE POLICY manage_studio ON studio FOR SELECT TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_games ON game TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_regions ON game_region TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_seen ON dimension FOR SELECT TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_keys ON ingest_key TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_members ON member TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_names ON account FOR SELECT TO gamepulse_manage USING (account_id IN (SELECT account_id FROM member));
CREATE POLICY manage_audits ON audit_log FOR SELECT TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY manage_writes_audits ON audit_log FOR INSERT TO gamepulse_manage WITH CHECK (studio_id = current_studio());

GRANT SELECT (at), DELETE ON audit_log TO gamepulse_aggregate;
CREATE POLICY aggregate_forgets_audits ON audit_log TO gamepulse_aggregate
    USING (at < now() - interval '400 days') WITH CHECK (false);

-- What is asked before it is known who asks. Each tells of one row at most, for a name or a secret that the asker has.
CREATE FUNCTION create_account(new_name text, new_hash text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO account (name, password_hash) VALUES (new_name, new_hash) ON CONFLICT (name) DO NOTHING RETURNING account_id
$$;

CREATE FUNCTION find_account(its_name text, OUT account_id integer, OUT password_hash text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT account.account_id, account.password_hash FROM account WHERE name = its_name
$$;

-- Of a sign-in that was used within `idle` and begun within `lifetime`. That it is used is noted when that was not for `noted`.
CREATE FUNCTION find_sign_in(its_hash bytea, idle interval, lifetime interval, noted interval, OUT account_id integer, OUT name text,
    OUT has_totp boolean, OUT sign_in_id uuid, OUT studio_ids integer[], OUT roles text[]) RETURNS SETOF record
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE sign_in SET last_used_at = now()
    WHERE token_hash = its_hash AND last_used_at < now() - noted AND last_used_at > now() - idle AND created_at > now() - lifetime;
    SELECT account.account_id, account.name, account.has_totp, sign_in.sign_in_id,
        ARRAY(SELECT member.studio_id FROM member WHERE member.account_id = account.account_id ORDER BY member.studio_id),
        ARRAY(SELECT member.role FROM member WHERE member.account_id = account.account_id ORDER BY member.studio_id)
    FROM sign_in JOIN account ON account.account_id = sign_in.account_id
    WHERE token_hash = its_hash AND last_used_at > now() - idle AND sign_in.created_at > now() - lifetime
$$;

-- For `gamepulse admin create`.
CREATE FUNCTION put_studio(its_name text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO studio (name) VALUES (its_name) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING studio_id
$$;

CREATE FUNCTION account_named(its_name text) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$ SELECT account_id FROM account WHERE name = its_name $$;

REVOKE ALL ON FUNCTION create_account(text, text), find_account(text), find_sign_in(bytea, interval, interval, interval),
    put_studio(text), account_named(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_account(text, text), find_account(text), find_sign_in(bytea, interval, interval, interval)
    TO gamepulse_account;
GRANT EXECUTE ON FUNCTION put_studio(text), account_named(text) TO gamepulse_manage;
