package main

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"gamepulse/bench/peers/batch"
)

const (
	waitingMax    = 2_000 // batches; more are refused
	groupMax      = 1_000
	commitEvery   = 2 * time.Millisecond // as the service: each costs CPU of its own, however little it holds
	commitTimeout = 4500 * time.Millisecond
)

const table = `
CREATE TABLE IF NOT EXISTS batch (
    batch_id uuid PRIMARY KEY, received_at timestamptz NOT NULL, game text NOT NULL, session uuid NOT NULL, player text,
    platform text, build text, connection text, match text, places text NOT NULL, records bytea NOT NULL
)`

const insert = `
INSERT INTO batch (batch_id, received_at, game, session, player, platform, build, connection, match, places, records)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::bytea[])
ON CONFLICT DO NOTHING
RETURNING batch_id`

var errOverloaded = errors.New("too many batches wait")

type result struct {
	isDuplicate bool
	err         error
}

// waiting is a batch that waits for its commit.
type waiting struct {
	batch      *batch.Batch
	receivedAt time.Time
	places     string
	records    []byte
	span       trace.Span
	answered   chan result
}

func newWaiting(sent *batch.Batch, span trace.Span) *waiting {
	now := time.Now()
	records, places := pack(sent, now.UnixMilli())
	return &waiting{sent, now, places, records, span, make(chan result, 1)}
}

// committer stores batches in groups: what arrives while a commit is in flight shares the next.
type committer struct {
	connection *pgx.Conn
	telemetry  *telemetry
	queue      chan *waiting
	done       chan struct{}
}

func newCommitter(connection *pgx.Conn, telemetry *telemetry) *committer {
	c := &committer{connection, telemetry, make(chan *waiting, waitingMax), make(chan struct{})}
	go c.run()
	return c
}

// accept returns when the batch is safe.
func (c *committer) accept(one *waiting) result {
	select {
	case c.queue <- one:
		return <-one.answered
	default:
		return result{err: errOverloaded}
	}
}

func (c *committer) close() {
	close(c.queue)
	<-c.done
	_ = c.connection.Close(context.Background())
}

func (c *committer) run() {
	defer close(c.done)
	var began time.Time
	for first := range c.queue {
		time.Sleep(time.Until(began.Add(commitEvery)))
		began = time.Now()
		group := []*waiting{first}
		for more := true; more && len(group) < groupMax; {
			select {
			case one, isOpen := <-c.queue:
				if more = isOpen; isOpen {
					group = append(group, one)
				}
			default:
				more = false
			}
		}
		c.settle(group)
	}
}

func (c *committer) settle(group []*waiting) {
	started := time.Now()
	ctx, span := c.telemetry.beginCommit(group)
	fresh, err := c.commit(ctx, group)
	c.telemetry.endCommit(ctx, span, len(group), time.Since(started))
	for _, one := range group {
		isFresh := fresh[one.batch.BatchID]
		delete(fresh, one.batch.BatchID) // of two in one group the second is the duplicate
		one.answered <- result{!isFresh, err}
	}
}

// commit stores a group in one statement and tells which batches were new.
func (c *committer) commit(ctx context.Context, group []*waiting) (map[uuid.UUID]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	rows, err := c.connection.Query(ctx, insert, columns(group)...)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	fresh := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		fresh[id] = true
	}
	return fresh, err
}

func columns(group []*waiting) []any {
	ids, sessions := make([][16]byte, len(group)), make([][16]byte, len(group))
	times, records := make([]time.Time, len(group)), make([][]byte, len(group))
	games, places := make([]string, len(group)), make([]string, len(group))
	var texts [5][]*string // player, platform, build, connection, match
	for n, one := range group {
		b := one.batch
		ids[n], sessions[n], times[n], records[n] = b.BatchID, b.Session, one.receivedAt, one.records
		games[n], places[n] = b.Game, one.places
		for column, text := range [5]*string{&b.Player, &b.Platform, &b.Build, &b.Connection, &b.Match} {
			if *text == "" {
				text = nil
			}
			texts[column] = append(texts[column], text)
		}
	}
	return []any{ids, times, games, sessions, texts[0], texts[1], texts[2], texts[3], texts[4], places, records}
}
