-- 23 hours from any hour on, kept for as long as "the last 24 hours" are asked of them (docs/adr/0038).
-- Tables are locked in the order in which questions and rolls take them. What was checked before needs no look at the rows.

CREATE TABLE rollup_recent (
    LIKE rollup_hour INCLUDING STORAGE, PRIMARY KEY (studio_id, game_id, dimension_set, start, dimension_id)
) WITH (toast_tuple_target = 8160);
CREATE INDEX ON rollup_recent (start);

ALTER TABLE rollup_recent ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON rollup_recent TO gamepulse_aggregate;
GRANT SELECT ON rollup_recent TO gamepulse_query;
CREATE POLICY aggregate_recent ON rollup_recent TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY query_recent ON rollup_recent FOR SELECT TO gamepulse_query USING (studio_id = current_studio());

ALTER TABLE stale_rollup DROP CONSTRAINT stale_rollup_step_check,
    ADD CONSTRAINT stale_rollup_step_check CHECK (step IN ('quarter', 'recent', 'day')),
    ADD COLUMN width interval;
UPDATE stale_rollup SET width = CASE step WHEN 'day' THEN interval '1 day' ELSE interval '6 hours' END;
ALTER TABLE stale_rollup ALTER width SET NOT NULL;

ALTER TABLE rollup_total DROP CONSTRAINT rollup_total_step_check,
    ADD CONSTRAINT rollup_total_step_check CHECK (step IN ('hour', 'quarter', 'recent', 'day')) NOT VALID;

-- The version before knows no width, and does not keep recent hours right: while it rolls a game's dimension set, there are none.
CREATE FUNCTION forget_recent() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    NEW.width := CASE NEW.step WHEN 'day' THEN interval '1 day' ELSE interval '6 hours' END;
    DELETE FROM rollup_total WHERE studio_id = NEW.studio_id AND game_id = NEW.game_id AND dimension_set = NEW.dimension_set
        AND step = 'recent' AND start > now() - interval '40 days';
    DELETE FROM stale_rollup WHERE studio_id = NEW.studio_id AND game_id = NEW.game_id AND dimension_set = NEW.dimension_set
        AND step = 'recent';
    RETURN NEW;
END $$;
CREATE TRIGGER forget_recent BEFORE INSERT ON stale_rollup FOR EACH ROW WHEN (NEW.width IS NULL) EXECUTE FUNCTION forget_recent();
