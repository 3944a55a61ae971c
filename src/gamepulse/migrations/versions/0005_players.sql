-- Further players of a session: an account changed within it, an id given by mistake. session_seen names one of a session and place.
-- The version before still works with it, but writes and erases no further ones.

CREATE TABLE session_seen_other (
    LIKE session_seen,                       -- what this player's reports say
    PRIMARY KEY (studio_id, game_id, session_id, day, region, server, player)
);
CREATE INDEX ON session_seen_other (studio_id, game_id, player);

ALTER TABLE session_seen_other ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON session_seen_other TO gamepulse_aggregate;
GRANT SELECT ON session_seen_other TO gamepulse_query;
CREATE POLICY aggregate_other_players ON session_seen_other TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY query_other_players ON session_seen_other FOR SELECT TO gamepulse_query USING (studio_id = current_studio());

-- What is asked for by player.
CREATE VIEW session_seen_all WITH (security_invoker) AS
    SELECT * FROM session_seen UNION ALL SELECT * FROM session_seen_other;
GRANT SELECT ON session_seen_all TO gamepulse_aggregate, gamepulse_query;
