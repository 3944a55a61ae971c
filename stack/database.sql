-- Makes the owner of GamePulse's tables and the database. Run it as PostgreSQL's superuser, as often as you like:
--
--   psql -v ON_ERROR_STOP=1 -v password=… -f stack/database.sql
--
-- The owner is no superuser: row-level security binds its roles here as it does on a managed server.
SELECT 'CREATE ROLE gamepulse LOGIN CREATEROLE CREATEDB' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'gamepulse') \gexec
ALTER ROLE gamepulse PASSWORD :'password';
SELECT 'CREATE DATABASE gamepulse OWNER gamepulse' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'gamepulse') \gexec
