// The series of one batcher, labelled with its encoder's name and fingerprint.
#ifndef LOCI_ENCODER_BATCHER_METRICS_H_
#define LOCI_ENCODER_BATCHER_METRICS_H_

#include "base/metrics.h"
#include "encoder/encoder.h"

namespace loci {

// They are there from construction on, at zero. Thread-safe.
struct BatcherMetrics {
  BatcherMetrics(MetricsSink& sink, const EncoderSpec& spec);

  Gauge& queued_tokens;
  Gauge& queued_requests;
  Histogram& batch_tokens;
  Histogram& batch_sequences;
  Histogram& queue_seconds;
  Histogram& encode_seconds;
  Counter& dropped_cancelled;
  Counter& dropped_deadline;
  Counter& dropped_out_of_reach;
  Counter& dropped_tokens;
  Counter& wasted_tokens;
  Counter& refused;
  Counter& refused_late;
  Counter& failed_batches;

 private:
  BatcherMetrics(MetricsSink& sink, const MetricLabels& encoder);
};

}  // namespace loci

#endif  // LOCI_ENCODER_BATCHER_METRICS_H_
