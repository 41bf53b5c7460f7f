// A store follows the encoder that a training job publishes: it is encoded anew in the background, what drifted most first, into a generation
// that takes its place together with the encoder.
//
//   LOCI_ASSIGN_OR_RETURN(const std::string job, refresher.Start("movies", encoder, {.max_encoder_share = 0.5}));
//
//   queued -> sampling -> encoding -> copy -> (GenerationBuilder::Finish) -> (an activation's) loading ... publishing
//
//   stores/<store>/REFRESH     RefreshRecord: the last one that was asked for, and what was measured
//
// A refresh is a job of kind "reembed", which ends as Reembed's does. Until then the store serves what it served, and sessions are told how far
// that is from the newest encoder: see EncodeDriftFirst and EncoderDriftTable.
#ifndef LOCI_RETRIEVER_ENCODER_REFRESH_H_
#define LOCI_RETRIEVER_ENCODER_REFRESH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "encoder/text_encoder.h"
#include "retriever/encoder_drift_table.h"
#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"
#include "retriever/reembedder.h"

namespace loci {

struct RefreshOptions {
  std::string index;             // As ReembedOptions,
  bool activate = true;          // as well: false builds the generation, and does not switch to it.
  double max_encoder_share = 1;  // As well.
  int64_t drift_sample_count = 1'024;  // As DriftFirstOptions::sample_count.
  uint64_t seed = 0;                   // As well.
  std::string request_id;              // Of the request that asks for it.
};

// What a store follows now.
struct RefreshStart {
  std::string job;
  std::shared_ptr<const ServingSet> serving;  // What it serves until that has made its switch.
};

// One refresh of a store at a time: the newest encoder wins. Start and Resume write files; neither waits for a refresh. Thread-safe.
class EncoderRefresher {
 public:
  struct Options {
    GenerationManager* manager = nullptr;  // Borrowed, as all below. They outlive the pool.
    JobRegistry* jobs = nullptr;
    ThreadPool* pool = nullptr;  // That of re-embeddings.
    EncoderDriftTable* drifts = nullptr;
    Clock* clock = &RealClock();
    int64_t poll_ms = 500;  // Between two tries to go on with what was interrupted, where something is in its way.
    // For tests: called on a refresh's thread before every few passages that it encodes, with nothing on its way; may block. Null: nothing.
    std::function<void(const RequestLimits& limits)> before_passages;
    // What the job of a refresh that ended well keeps; null: nothing.
    std::function<std::string(const ReembedResult& result, const std::string& job)> encode_result;
  };

  explicit EncoderRefresher(Options options);
  ~EncoderRefresher();  // Does not wait for refreshes: they hold what they need.

  // Has the store follow `encoder`, which lies in the manager's registry: tells the manager that generations of its passage half are encoded by it
  // (GenerationManager::SetEncoder), begins a job and names that. A refresh that is under way in the store by another
  // passage half, or that switches where this one is not to, or the other way round, ends as CANCELLED, reason JOB_SUPERSEDED with `superseded_by`, or has
  // made its switch; the new one begins its work after that. One that is under way by the same half, and was not cancelled, is the one that is named.
  //
  // Where another generation becomes active while the store is refreshed, or writes are discarded, the refresh begins again on that: what it would
  // go over is not encoded again, and whoever activated it did not ask for an older encoder's vectors; who wants those cancels the job.
  // Up to 8 times; then the job fails with ABORTED, reason GENERATION_CHANGED. Where what becomes active is of the encoder's passage half the job has ended
  // well. A job that fails or is cancelled is not tried again, not after a restart either; its drift is told on.
  //
  // FAILED_PRECONDITION: NO_ACTIVE_GENERATION; SAME_ENCODER where the store's vectors are of the encoder's passage half and no refresh is under way:
  // drift is told against that half from then on, and SetEncoder is the caller's. ABORTED, reason JOB_IN_THE_WAY, where an ingest, a fold that was
  // asked for, a re-embedding, an activation or a roll-back runs. NOT_FOUND names the store. RESOURCE_EXHAUSTED, reason OVERLOADED, where too many
  // such jobs are queued; errors of the disk. After all of them the refresh that is under way goes on.
  absl::StatusOr<RefreshStart> Start(const std::string& store, std::shared_ptr<TextEncoder> encoder, const RefreshOptions& options);

  // After a start of the server, once, before the first Start: tells the table what is known of drifts, and has what was interrupted go on, each under
  // its job's id, in the background and as soon as nothing is in its way and disk and pool take it. What the EncodingJournal has is not encoded again.
  void Resume();

  void Forget(const std::string& store);  // It was deleted.

 private:
  struct State;
  const std::shared_ptr<State> state_;
  std::thread thread_;  // Of Resume.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_REFRESH_H_
