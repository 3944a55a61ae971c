-- Makes the login by which the Collector reads PostgreSQL's own statistics, and nothing else. Run it as a superuser (on RDS: the
-- master user), as often as you like:
--
--   psql -v ON_ERROR_STOP=1 -v password=… -f observability/collector/postgres.sql
SET client_min_messages = warning;
SELECT 'CREATE ROLE gamepulse_monitor LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'gamepulse_monitor') \gexec
ALTER ROLE gamepulse_monitor PASSWORD :'password' CONNECTION LIMIT 10;
ALTER ROLE gamepulse_monitor SET default_transaction_read_only = on;
ALTER ROLE gamepulse_monitor SET statement_timeout = '10s';
GRANT pg_monitor TO gamepulse_monitor;
