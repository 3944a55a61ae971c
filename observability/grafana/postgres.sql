-- Makes the login by which Grafana asks PostgreSQL. Run it as the owner after `gamepulse migrate`, as often as you like:
--
--   psql "$GAMEPULSE_DATABASE_URL" -v ON_ERROR_STOP=1 -v studio=1 -v password=… -f observability/grafana/postgres.sql
--
-- It reads hours, days and the names of games and groups, of one studio: nothing of a session or a player, whose look-ups
-- are recorded (audit_log). It is not gamepulse_query: who may write SQL could name another studio there. A second studio
-- needs a second Grafana organisation, data source and login: -v login=gamepulse_grafana_2 -v studio=2.
\if :{?login} \else \set login gamepulse_grafana \endif
SET client_min_messages = warning;
SELECT format('CREATE ROLE %I LOGIN', :'login') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'login') \gexec
ALTER ROLE :"login" PASSWORD :'password' NOINHERIT CONNECTION LIMIT 20;
ALTER ROLE :"login" SET default_transaction_read_only = on;
ALTER ROLE :"login" SET statement_timeout = '10s';
SELECT format('GRANT SELECT ON %I TO %I', name, :'login'), format('DROP POLICY IF EXISTS %I ON %I', :'login', name),
    format('CREATE POLICY %I ON %I FOR SELECT TO %I USING (studio_id = %s)', :'login', name, :'login', (:'studio')::integer)
FROM unnest(ARRAY['game', 'dimension', 'rollup_hour', 'rollup_quarter', 'rollup_day', 'rollup_total']) AS name \gexec
