#include "encoder/batcher_metrics.h"

#include <string>
#include <vector>

namespace loci {
namespace {

std::vector<double> SecondsBounds() { return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10}; }

Counter& Dropped(MetricsSink& sink, MetricLabels labels, const std::string& reason) {
  labels["reason"] = reason;
  return sink.counter("loci_batcher_dropped_requests_total", "Requests dropped before all of them was encoded.",
                      labels);
}

Counter& Refused(MetricsSink& sink, MetricLabels labels, const std::string& reason) {
  labels["reason"] = reason;
  return sink.counter("loci_batcher_refused_requests_total", "Requests refused because the queue was full or their deadline out of reach.",
                      labels);
}

}  // namespace

// By the fingerprint, too: two folders may have one name.
BatcherMetrics::BatcherMetrics(MetricsSink& sink, const EncoderSpec& spec)
    : BatcherMetrics(sink, MetricLabels{{"encoder", spec.model_name}, {"fingerprint", spec.fingerprint.ToString()}}) {}

BatcherMetrics::BatcherMetrics(MetricsSink& sink, const MetricLabels& encoder)
    : queued_tokens(sink.gauge("loci_batcher_queued_tokens", "Tokens of requests not yet answered.", encoder)),
      queued_requests(sink.gauge("loci_batcher_queued_requests", "Requests not yet answered.", encoder)),
      batch_tokens(sink.histogram("loci_batcher_batch_tokens", "Tokens in a batch.", encoder,
                                  {16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192})),
      batch_sequences(sink.histogram("loci_batcher_batch_sequences", "Sequences in a batch.", encoder,
                                     {1, 2, 4, 8, 16, 32, 64, 128, 256})),
      queue_seconds(sink.histogram("loci_batcher_queue_seconds", "Submission to the start of a request's first batch.",
                                   encoder, SecondsBounds())),
      encode_seconds(sink.histogram("loci_batcher_encode_seconds", "Time that the encoder took for a batch.",
                                    encoder, SecondsBounds())),
      dropped_cancelled(Dropped(sink, encoder, "cancelled")),
      dropped_deadline(Dropped(sink, encoder, "deadline")),
      dropped_out_of_reach(Dropped(sink, encoder, "out_of_reach")),
      dropped_tokens(sink.counter("loci_batcher_dropped_tokens_total",
                                  "Tokens that were not encoded because their request was dropped.", encoder)),
      wasted_tokens(sink.counter("loci_batcher_wasted_tokens_total",
                                 "Tokens that were encoded for requests that did not get their vectors.",
                                 encoder)),
      refused(Refused(sink, encoder, "queue_full")),
      refused_late(Refused(sink, encoder, "deadline")),
      failed_batches(sink.counter("loci_batcher_failed_batches_total", "Batches that the encoder could not encode.",
                                  encoder)) {}

}  // namespace loci
