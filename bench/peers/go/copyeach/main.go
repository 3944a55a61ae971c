// copyeach is the usual way in Go: net/http, encoding/json, and pgx's CopyFrom for each request into a row for each report.
// It has no telemetry and knows no duplicates.
//
// Run as `copyeach PORT`, with DATABASE_URL and INGEST_KEY set.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"gamepulse/bench/peers/batch"
)

// The table of fastapi_peer.py.
const table = `
CREATE TABLE IF NOT EXISTS report (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL, game text NOT NULL, session uuid NOT NULL, player text, platform text, build text,
    connection text, match text, seq integer NOT NULL, at timestamptz NOT NULL, side text NOT NULL,
    region text NOT NULL, server text, rtt_ms real, rtt_min_ms real, rtt_max_ms real, jitter_ms real,
    jitter_method text, loss real, quality text
)`

var columns = []string{
	"batch_id", "game", "session", "player", "platform", "build", "connection", "match", "seq", "at", "side", "region",
	"server", "rtt_ms", "rtt_min_ms", "rtt_max_ms", "jitter_ms", "jitter_method", "loss", "quality",
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL")+"?pool_max_conns=10")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, table); err != nil {
		log.Fatal(err)
	}
	bearer := "Bearer " + os.Getenv("INGEST_KEY")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/reports", func(w http.ResponseWriter, r *http.Request) { store(pool, bearer, w, r) })
	server := &http.Server{Addr: "127.0.0.1:" + os.Args[1], Handler: mux}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}

func store(pool *pgxpool.Pool, bearer string, w http.ResponseWriter, r *http.Request) {
	if !batch.Authorized(r, bearer) {
		http.Error(w, "unknown key", http.StatusUnauthorized)
		return
	}
	sent, err := batch.Read(w, r)
	if err != nil {
		http.Error(w, "invalid batch", http.StatusUnprocessableEntity)
		return
	}
	rows := pgx.CopyFromSlice(len(sent.Reports), func(i int) ([]any, error) { return row(sent, &sent.Reports[i]), nil })
	stored, err := pool.CopyFrom(r.Context(), pgx.Identifier{"report"}, columns, rows)
	if err != nil {
		http.Error(w, "not stored", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = fmt.Fprintf(w, `{"accepted":%d}`, stored)
}

func row(b *batch.Batch, r *batch.Report) []any {
	side := r.Side
	if side == "" {
		side = "client"
	}
	return []any{
		b.BatchID, b.Game, b.Session, known(b.Player), known(b.Platform), known(b.Build), known(b.Connection), known(b.Match),
		r.Seq, time.UnixMilli(r.At), side, r.Region, known(r.Server), r.RttMs, r.RttMinMs, r.RttMaxMs, r.JitterMs,
		known(r.JitterMethod), r.Loss, known(r.Quality),
	}
}

// known is the text, or null for "".
func known(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
