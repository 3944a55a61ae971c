// grouped is GamePulse's way in Go: net/http, encoding/json, group commit of packed batches, each stored once, and
// telemetry in bulk. It does less: no fingerprint of the content, no clock correction, no geography, no hashed players,
// no bad report set aside, no aggregation.
//
// Run as `grouped PORT`, with DATABASE_URL, INGEST_KEY and OpenTelemetry's variables set.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"gamepulse/bench/peers/batch"
)

const drainFor = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	telemetry, err := newTelemetry(ctx)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := connection.Exec(ctx, table); err != nil {
		log.Fatal(err)
	}
	committer := newCommitter(connection, telemetry)
	ingest := &ingest{bearer: "Bearer " + os.Getenv("INGEST_KEY"), committer: committer, telemetry: telemetry}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/ready", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("POST "+route, ingest)
	server := &http.Server{Addr: "127.0.0.1:" + os.Args[1], Handler: mux}
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	<-ctx.Done()
	ending, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	_ = server.Shutdown(ending)
	committer.close()
	telemetry.close(ending)
}

type ingest struct {
	bearer    string
	committer *committer
	telemetry *telemetry
}

// ServeHTTP answers one request, and tells telemetry of it.
func (i *ingest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	ctx, span := i.telemetry.begin(r)
	status, body := i.ingest(ctx, w, r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
	i.telemetry.end(ctx, span, status, time.Since(started))
}

func (i *ingest) ingest(ctx context.Context, w http.ResponseWriter, r *http.Request) (int, []byte) {
	if !batch.Authorized(r, i.bearer) {
		return http.StatusUnauthorized, []byte(`{"code":"unknown_key"}`)
	}
	receiving := i.telemetry.child(ctx, "receive")
	sent, err := batch.Read(w, r)
	receiving.End()
	if err != nil {
		return http.StatusUnprocessableEntity, []byte(`{"code":"invalid"}`)
	}
	accepting := i.telemetry.child(ctx, "accept")
	result := i.committer.accept(newWaiting(sent, trace.SpanFromContext(ctx)))
	accepting.End()
	if result.err != nil {
		return http.StatusServiceUnavailable, []byte(`{"code":"not_stored"}`)
	}
	accepted, duplicate := len(sent.Reports), 0
	if result.isDuplicate {
		accepted, duplicate = 0, accepted
	}
	i.telemetry.counted(ctx, accepted, duplicate)
	return http.StatusAccepted, fmt.Appendf(nil, `{"accepted":%d,"duplicate":%d}`, accepted, duplicate)
}
