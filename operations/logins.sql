-- Who signs in to PostgreSQL. Each query makes statements, which are then executed (operations/logins.py); each may be repeated.

-- name: role
-- $1: its name.
SELECT format('CREATE ROLE %I', $1::text) WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1);

-- name: sign_in
-- By a password. $1: the role's name, $2: the password, as SCRAM keeps it.
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text);

-- name: own_password
-- $1: as above.
SELECT format('ALTER ROLE CURRENT_USER PASSWORD %L', $1::text);

-- name: sign_in_by_token
-- By tokens of AWS, where rds_iam is.
SELECT format('ALTER ROLE %I LOGIN', $1::text) UNION ALL SELECT format('GRANT rds_iam TO %I', $1::text);

-- name: owner
-- Of GamePulse's tables. It is no superuser: row-level security binds its roles here as it does on a managed server.
SELECT format('ALTER ROLE %I CREATEROLE', $1::text);

-- name: act_as
-- So that we, who need not be a superuser either (on RDS there is none), may act as a role that we have made.
SELECT format('GRANT %I TO CURRENT_USER', $1::text) WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER);

-- name: database
-- $1: its name, $2: its owner's.
SELECT format('CREATE DATABASE %I OWNER %I', $1::text, $2::text) WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1);

-- name: service
-- Of `gamepulse serve`: acts as one of the roles, and owns nothing.
SELECT format('ALTER ROLE %I NOINHERIT', $1::text);

-- name: acts
-- As the owner, once the roles are there.
SELECT format('GRANT gamepulse_ingest, gamepulse_aggregate, gamepulse_query, gamepulse_account, gamepulse_manage TO %I', $1::text);

-- name: monitor
-- Of the Collector: PostgreSQL's own statistics, and nothing else.
SELECT format(said, $1::text) FROM unnest(ARRAY[
    'ALTER ROLE %I CONNECTION LIMIT 10',
    'ALTER ROLE %I SET default_transaction_read_only = on',
    'ALTER ROLE %I SET statement_timeout = ''10s''',
    'GRANT pg_monitor TO %I'
]) AS said;

-- name: reader
-- Of Grafana's data source.
SELECT format(said, $1::text) FROM unnest(ARRAY[
    'ALTER ROLE %I NOINHERIT CONNECTION LIMIT 20',
    'ALTER ROLE %I SET default_transaction_read_only = on',
    'ALTER ROLE %I SET statement_timeout = ''10s'''
]) AS said;

-- name: reads
-- What it reads: hours, days and the names of games and groups, of one studio ($2); nothing of a session or a player, whose look-ups
-- are recorded (audit_log). It is not gamepulse_query: who may write SQL could name another studio there. As the owner.
SELECT format(said, name, $1::text, $2::integer)
FROM unnest(ARRAY['game', 'dimension', 'rollup_hour', 'rollup_quarter', 'rollup_day', 'rollup_total']) AS name,
    unnest(ARRAY[
        'GRANT SELECT ON %1$I TO %2$I',
        'DROP POLICY IF EXISTS %2$I ON %1$I',
        'CREATE POLICY %2$I ON %1$I FOR SELECT TO %2$I USING (studio_id = %3$s)'
    ]) WITH ORDINALITY AS statement (said, number)
ORDER BY name, number;
