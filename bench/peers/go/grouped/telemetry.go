package main

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

const (
	route        = "/v1/reports"
	spanName     = "POST " + route
	sampleRatio  = 0.01
	logsEvery    = 250 * time.Millisecond
	logsWaiting  = 65_536 // the default of 2,048 would drop most of the access log
	logsInExport = 8_192
	pointsEvery  = 5 * time.Second
)

// telemetry is every metric, the whole access log, and a share of the traces, by the SDK's own batching.
type telemetry struct {
	tracers    *sdktrace.TracerProvider
	meters     *sdkmetric.MeterProvider
	loggers    *sdklog.LoggerProvider
	tracer     trace.Tracer
	accessLog  otellog.Logger
	propagator propagation.TraceContext

	requestDuration, commitDuration metric.Float64Histogram
	commitSize                      metric.Int64Histogram
	batches, reports                metric.Int64Counter
}

// newTelemetry exports to OTEL_EXPORTER_OTLP_ENDPOINT.
func newTelemetry(ctx context.Context) (*telemetry, error) {
	spans, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	points, err := otlpmetricgrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	records, err := otlploggrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	exponential := sdkmetric.NewView(
		sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 320, MaxScale: 5}},
	)
	t := &telemetry{
		tracers: sdktrace.NewTracerProvider(
			sdktrace.WithBatcher(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(sampleRatio))),
		),
		meters: sdkmetric.NewMeterProvider(
			sdkmetric.WithReader(sdkmetric.NewPeriodicReader(points, sdkmetric.WithInterval(pointsEvery))),
			sdkmetric.WithView(exponential),
		),
		loggers: sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(
			records, sdklog.WithExportInterval(logsEvery), sdklog.WithMaxQueueSize(logsWaiting),
			sdklog.WithExportMaxBatchSize(logsInExport),
		))),
	}
	t.tracer, t.accessLog = t.tracers.Tracer("peer"), t.loggers.Logger("peer")
	return t, t.instruments(t.meters.Meter("peer"))
}

func (t *telemetry) instruments(meter metric.Meter) (err error) {
	if t.requestDuration, err = meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s")); err != nil {
		return err
	}
	if t.commitDuration, err = meter.Float64Histogram("ingest.commit.duration", metric.WithUnit("s")); err != nil {
		return err
	}
	if t.commitSize, err = meter.Int64Histogram("ingest.commit.size"); err != nil {
		return err
	}
	if t.batches, err = meter.Int64Counter("ingest.batches"); err != nil {
		return err
	}
	t.reports, err = meter.Int64Counter("ingest.reports")
	return err
}

func (t *telemetry) close(ctx context.Context) {
	_ = t.tracers.Shutdown(ctx)
	_ = t.meters.Shutdown(ctx)
	_ = t.loggers.Shutdown(ctx)
}

func (t *telemetry) begin(r *http.Request) (context.Context, trace.Span) {
	ctx := r.Context()
	if r.Header.Get("Traceparent") != "" {
		ctx = t.propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	return t.tracer.Start(ctx, spanName, trace.WithSpanKind(trace.SpanKindServer))
}

// child is a span within a request that is kept; it costs nothing in one that is not.
func (t *telemetry) child(ctx context.Context, name string) trace.Span {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return noop.Span{}
	}
	_, span := t.tracer.Start(ctx, name)
	return span
}

var (
	logBody   = attribute.StringValue("request")
	method    = attribute.String("http.request.method", "POST")
	where     = attribute.String("http.route", route)
	accepted  = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "accepted")))
	duplicate = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "duplicate")))
	// Sets are made once: making them for each request would cost more than recording.
	byStatus = map[int]metric.MeasurementOption{
		http.StatusAccepted:            requestSet(http.StatusAccepted),
		http.StatusUnauthorized:        requestSet(http.StatusUnauthorized),
		http.StatusUnprocessableEntity: requestSet(http.StatusUnprocessableEntity),
		http.StatusServiceUnavailable:  requestSet(http.StatusServiceUnavailable),
	}
)

func requestSet(status int) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(method, where, attribute.Int("http.response.status_code", status)))
}

func (t *telemetry) end(ctx context.Context, span trace.Span, status int, took time.Duration) {
	t.requestDuration.Record(ctx, took.Seconds(), byStatus[status])
	if span.IsRecording() {
		span.SetAttributes(method, where, attribute.Int("http.response.status_code", status))
	}
	span.End()
	var record otellog.Record
	record.SetTimestamp(time.Now())
	record.SetSeverity(otellog.SeverityInfo)
	record.SetBody(logBody)
	record.AddAttributes(
		attribute.Float64("duration", took.Seconds()), method, where, attribute.Int("http.response.status_code", status),
	)
	t.accessLog.Emit(ctx, record)
}

func (t *telemetry) counted(ctx context.Context, fresh, known int) {
	outcome := accepted
	if known > 0 {
		outcome = duplicate
	}
	t.batches.Add(ctx, 1, outcome)
	t.reports.Add(ctx, int64(fresh+known), outcome)
}

// beginCommit starts the commit's span, linked to the kept batches in it, when there are any.
func (t *telemetry) beginCommit(group []*waiting) (context.Context, trace.Span) {
	var links []trace.Link
	parent := context.Background()
	for _, one := range group {
		if one.span.IsRecording() {
			links = append(links, trace.Link{SpanContext: one.span.SpanContext()})
			parent = trace.ContextWithSpan(context.Background(), one.span)
		}
	}
	if links == nil {
		return parent, noop.Span{}
	}
	return t.tracer.Start(parent, "commit", trace.WithLinks(links...), trace.WithSpanKind(trace.SpanKindClient))
}

func (t *telemetry) endCommit(ctx context.Context, span trace.Span, size int, took time.Duration) {
	t.commitDuration.Record(ctx, took.Seconds())
	t.commitSize.Record(ctx, int64(size))
	span.End()
}
