// Package batch is what both Go peers take and check: the fields and limits of fastapi_peer.py.
//
// Where encoding/json cannot tell "left out" from zero (seq, rtt_ms) it is let through, as Go services commonly do.
package batch

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/google/uuid"
)

const bodyBytesMax = 256 * 1024

// Report is one measurement; nil and "" are unknown.
type Report struct {
	Seq          int32    `json:"seq"`
	At           int64    `json:"at"` // ms since the epoch
	Side         string   `json:"side"`
	Region       string   `json:"region"`
	Server       string   `json:"server"`
	RttMs        *float64 `json:"rtt_ms"`
	RttMinMs     *float64 `json:"rtt_min_ms"`
	RttMaxMs     *float64 `json:"rtt_max_ms"`
	JitterMs     *float64 `json:"jitter_ms"`
	JitterMethod string   `json:"jitter_method"`
	Loss         *float64 `json:"loss"`
	Quality      string   `json:"quality"`
}

// Batch is one session's measurements.
type Batch struct {
	BatchID    uuid.UUID `json:"batch_id"`
	Game       string    `json:"game"`
	SentAt     int64     `json:"sent_at"`
	Session    uuid.UUID `json:"session"`
	Player     string    `json:"player"`
	Platform   string    `json:"platform"`
	Build      string    `json:"build"`
	Connection string    `json:"connection"`
	Match      string    `json:"match"`
	Reports    []Report  `json:"reports"`
}

// Words in the order of their codes; "" is not given.
var (
	Sides       = []string{"", "client", "server"}
	Methods     = []string{"", "rfc3550", "stddev", "ipdv"}
	Qualities   = []string{"", "estimating", "poor", "fair", "good", "excellent"}
	connections = []string{"", "wifi", "wired", "cellular", "unknown"}
)

var errInvalid = errors.New("invalid batch")

// Authorized tells whether the request has the game's key.
func Authorized(r *http.Request, bearer string) bool {
	return subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(bearer)) == 1
}

// Read decodes and checks the request's body.
func Read(w http.ResponseWriter, r *http.Request) (*Batch, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if err != nil {
		return nil, err
	}
	batch := new(Batch)
	if err := json.Unmarshal(body, batch); err != nil {
		return nil, err
	}
	if !batch.valid() {
		return nil, errInvalid
	}
	return batch, nil
}

func (b *Batch) valid() bool {
	if b.BatchID == uuid.Nil || b.Session == uuid.Nil || b.SentAt <= 0 || !isLabel(b.Game) ||
		len(b.Reports) < 1 || len(b.Reports) > 500 || !slices.Contains(connections, b.Connection) {
		return false
	}
	for _, label := range []string{b.Player, b.Platform, b.Build, b.Match} {
		if label != "" && !isLabel(label) {
			return false
		}
	}
	for i := range b.Reports {
		if !b.Reports[i].valid() {
			return false
		}
	}
	return true
}

func (r *Report) valid() bool {
	return r.Seq >= 0 && r.At > 0 && isLabel(r.Region) && (r.Server == "" || isLabel(r.Server)) &&
		within(r.RttMs, 0.01, 60_000) && within(r.RttMinMs, 0.01, 60_000) && within(r.RttMaxMs, 0.01, 60_000) &&
		within(r.JitterMs, 0, 60_000) && within(r.Loss, 0, 1) &&
		slices.Contains(Sides, r.Side) && slices.Contains(Methods, r.JitterMethod) && slices.Contains(Qualities, r.Quality)
}

func within(value *float64, least, most float64) bool {
	return value == nil || (*value >= least && *value <= most)
}

// isLabel is ^[A-Za-z0-9][A-Za-z0-9._:+/@-]{0,63}$ by hand: several times as fast as regexp.
func isLabel(text string) bool {
	if len(text) < 1 || len(text) > 64 || !isAlphanumeric(text[0]) {
		return false
	}
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case isAlphanumeric(c), c == '.', c == '_', c == ':', c == '+', c == '/', c == '@', c == '-':
		default:
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
