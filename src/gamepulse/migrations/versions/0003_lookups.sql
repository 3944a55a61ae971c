-- Who else was in a network or on a build at a time, and a random sample of sessions. `first_at` changes only when something earlier
-- comes late, so that a report of a session that is known writes no index anew.
CREATE INDEX ON session_seen (studio_id, game_id, network, first_at) WHERE network IS NOT NULL;
CREATE INDEX ON session_seen (studio_id, game_id, build, first_at) WHERE build IS NOT NULL;
CREATE INDEX ON session_seen (studio_id, game_id, uuid_hash(session_id));
