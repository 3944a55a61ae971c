// paced sends batches on a fixed schedule, whatever becomes of those before: an open loop, as wrk cannot.
//
// A latency is counted from when the batch was due, not from when it could be sent: a server that stalls is charged for
// every batch that had to wait (no coordinated omission). Latencies are told apart by the answer's status.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	tick          = time.Millisecond // what is due is sent once a tick: one timer for all
	answerTimeout = 30 * time.Second
)

var (
	address     = flag.String("address", "", "host:port of the server")
	key         = flag.String("key", "", "ingest key")
	from        = flag.String("from", "", "the clients' addresses with commas, as X-Forwarded-For in turn")
	bodyFile    = flag.String("body", "", "the batch, with @BATCH@ and @SESSION@ where the ids go")
	rate        = flag.Float64("rate", 0, "batches a second")
	seconds     = flag.Float64("seconds", 10, "for how long")
	connections = flag.Int("connections", 256, "how many may be under way")
	run         = flag.Int("run", 0, "keeps this load's ids apart from others'")
)

// outcome is one batch's fate, each time from when it was due; status 0: no answer.
type outcome struct {
	status                  int
	awake, waited, answered time.Duration
}

// Answers is what one status came to. Sent: from when it was sent.
type Answers struct {
	Count     int     `json:"count"`
	P50Ms     float64 `json:"p50_ms"`
	P99Ms     float64 `json:"p99_ms"`
	MaxMs     float64 `json:"max_ms"`
	SentP99Ms float64 `json:"sent_p99_ms"`
}

// Said is the program's only line of output. Awake: how late this program was for its own schedule, by no fault of the
// server's; waited: until there was a connection.
type Said struct {
	Offered     int                `json:"offered"`
	DurationS   float64            `json:"duration_s"`
	AwakeP99Ms  float64            `json:"awake_p99_ms"`
	WaitedP99Ms float64            `json:"waited_p99_ms"`
	Answers     map[string]Answers `json:"answers"`
}

func main() {
	flag.Parse()
	body, err := os.ReadFile(*bodyFile)
	if err != nil {
		log.Fatal(err)
	}
	offered := int(*rate * *seconds)
	outcomes := make([]outcome, offered)
	due := make(chan int, offered)
	client := &fasthttp.HostClient{
		Addr: *address, MaxConns: *connections, MaxIdemponentCallAttempts: 1,
		ReadTimeout: answerTimeout, WriteTimeout: answerTimeout,
	}
	start := time.Now()
	at := func(n int) time.Time { return start.Add(time.Duration(float64(n) / *rate * float64(time.Second))) }
	var workers sync.WaitGroup
	for range *connections {
		workers.Go(func() {
			send := sender(client, body)
			for n := range due {
				one := &outcomes[n]
				one.waited = time.Since(at(n))
				one.status = send(n)
				one.answered = time.Since(at(n))
			}
		})
	}
	for n := 0; n < offered; {
		for ; n < offered && !at(n).After(time.Now()); n++ {
			outcomes[n].awake = time.Since(at(n))
			due <- n
		}
		time.Sleep(tick)
	}
	close(due)
	workers.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(summarise(outcomes, time.Since(start))); err != nil {
		log.Fatal(err)
	}
}

// sender sends the n-th batch and tells its status, over and over with the same buffers.
func sender(client *fasthttp.HostClient, body []byte) func(n int) int {
	head, rest, _ := bytes.Cut(body, []byte("@BATCH@"))
	middle, tail, _ := bytes.Cut(rest, []byte("@SESSION@"))
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	request.Header.SetMethod("POST")
	request.SetRequestURI("http://" + *address + "/v1/reports")
	request.Header.SetContentType("application/json")
	request.Header.Set("Authorization", "Bearer "+*key)
	addresses := strings.Split(*from, ",")
	var buffer []byte
	return func(n int) int {
		buffer = append(buffer[:0], head...)
		buffer = fmt.Appendf(buffer, "%08x-%04x-4000-8000-%012x", uint32(n)*2654435761, *run, n) // as far apart as random ones
		buffer = append(buffer, middle...)
		buffer = fmt.Appendf(buffer, "%08x-0000-4000-9000-%012x", *run, n%10000)
		buffer = append(buffer, tail...)
		request.SetBodyRaw(buffer)
		request.Header.Set("X-Forwarded-For", addresses[n%len(addresses)])
		if err := client.Do(request, response); err != nil {
			return 0
		}
		return response.StatusCode()
	}
}

func summarise(outcomes []outcome, took time.Duration) Said {
	said := Said{Offered: len(outcomes), DurationS: took.Seconds(), Answers: map[string]Answers{}}
	var awake, waited []time.Duration
	due, sent := map[int][]time.Duration{}, map[int][]time.Duration{}
	for _, one := range outcomes {
		awake, waited = append(awake, one.awake), append(waited, one.waited)
		due[one.status] = append(due[one.status], one.answered)
		sent[one.status] = append(sent[one.status], one.answered-one.waited)
	}
	said.AwakeP99Ms, said.WaitedP99Ms = quantileMs(awake, 0.99), quantileMs(waited, 0.99)
	for status, times := range due {
		said.Answers[strconv.Itoa(status)] = Answers{
			len(times), quantileMs(times, 0.5), quantileMs(times, 0.99), quantileMs(times, 1), quantileMs(sent[status], 0.99),
		}
	}
	return said
}

// quantileMs sorts in place.
func quantileMs(latencies []time.Duration, q float64) float64 {
	if len(latencies) == 0 {
		return 0
	}
	slices.Sort(latencies)
	return float64(latencies[int(q*float64(len(latencies)-1))]) / 1e6
}
