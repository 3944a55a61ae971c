package main

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"gamepulse/bench/peers/batch"
)

const (
	recordBytes = 30
	unknown     = math.MaxUint32
)

// pack makes the records of docs/records.md: 30 bytes a report, and the places that they count into.
func pack(b *batch.Batch, nowMs int64) ([]byte, string) {
	packed := make([]byte, 0, recordBytes*len(b.Reports))
	var places []string
	for i := range b.Reports {
		r := &b.Reports[i]
		place := r.Region + " " + r.Server
		code := slices.Index(places, place)
		if code < 0 {
			code = len(places)
			places = append(places, place)
		}
		packed = binary.LittleEndian.AppendUint32(packed, uint32(int32(r.At-nowMs)))
		packed = binary.LittleEndian.AppendUint32(packed, uint32(r.Seq))
		packed = scaled(packed, r.RttMs, 1e3)
		packed = scaled(packed, r.RttMinMs, 1e3)
		packed = scaled(packed, r.RttMaxMs, 1e3)
		packed = scaled(packed, r.JitterMs, 1e3)
		packed = scaled(packed, r.Loss, 1e6)
		flags := slices.Index(batch.Qualities, r.Quality) + 8*slices.Index(batch.Methods, r.JitterMethod) +
			32*slices.Index(batch.Sides, r.Side)
		packed = append(packed, byte(flags), byte(code))
	}
	return packed, strings.Join(places, ",")
}

func scaled(packed []byte, value *float64, scale float64) []byte {
	if value == nil {
		return binary.LittleEndian.AppendUint32(packed, unknown)
	}
	return binary.LittleEndian.AppendUint32(packed, uint32(math.Round(*value*scale)))
}
