-- 23 hours from any hour on, kept for as long as "the last 24 hours" are asked of them (docs/adr/0038).
-- The version before still reads. It cannot mark what it changes as stale here, so it must not roll: without a width its mark is
-- refused, and its deltas wait for the next aggregator.

CREATE TABLE rollup_recent (
    LIKE rollup_hour INCLUDING STORAGE, PRIMARY KEY (studio_id, game_id, dimension_set, start, dimension_id)
) WITH (toast_tuple_target = 8160);
CREATE INDEX ON rollup_recent (start);

ALTER TABLE rollup_recent ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON rollup_recent TO gamepulse_aggregate;
GRANT SELECT ON rollup_recent TO gamepulse_query;
CREATE POLICY aggregate_recent ON rollup_recent TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY query_recent ON rollup_recent FOR SELECT TO gamepulse_query USING (studio_id = current_studio());

ALTER TABLE rollup_total DROP CONSTRAINT rollup_total_step_check,
    ADD CONSTRAINT rollup_total_step_check CHECK (step IN ('hour', 'quarter', 'recent', 'day'));
CREATE INDEX ON rollup_total (start) WHERE step = 'recent';

ALTER TABLE stale_rollup DROP CONSTRAINT stale_rollup_step_check,
    ADD CONSTRAINT stale_rollup_step_check CHECK (step IN ('quarter', 'recent', 'day')),
    ADD COLUMN width interval;
UPDATE stale_rollup SET width = CASE step WHEN 'day' THEN interval '1 day' ELSE interval '6 hours' END;
ALTER TABLE stale_rollup ALTER width SET NOT NULL;
