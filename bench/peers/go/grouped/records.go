package main

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"gamepulse/bench/peers/batch"
)

const (
	recordBytes = 26
	measureBits = 26
	unknown     = 1<<measureBits - 1
	unknownLoss = 1<<20 - 1
)

// pack makes the records of docs/records.md, and the places that they count into.
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
		said := slices.Index(batch.Qualities, r.Quality) | slices.Index(batch.Sides, r.Side)<<3
		loss := scaled(r.Loss, 1e6, unknownLoss)
		packed = binary.LittleEndian.AppendUint32(packed, uint32(int32(r.At-nowMs)))
		packed = binary.LittleEndian.AppendUint32(packed, uint32(r.Seq))
		packed = measure(packed, r.RttMs, uint32(said))
		packed = measure(packed, r.RttMinMs, uint32(code>>6))
		packed = measure(packed, r.RttMaxMs, uint32(code&63))
		packed = measure(packed, r.JitterMs, uint32(slices.Index(batch.Methods, r.JitterMethod))|loss>>16<<2)
		packed = binary.LittleEndian.AppendUint16(packed, uint16(loss))
	}
	return packed, strings.Join(places, ",")
}

func measure(packed []byte, ms *float64, spare uint32) []byte {
	return binary.LittleEndian.AppendUint32(packed, scaled(ms, 1e3, unknown)|spare<<measureBits)
}

func scaled(value *float64, scale float64, unknown uint32) uint32 {
	if value == nil {
		return unknown
	}
	return uint32(math.Round(*value * scale))
}
