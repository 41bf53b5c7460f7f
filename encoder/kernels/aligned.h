// Floats on cache lines.
#ifndef LOCI_ENCODER_KERNELS_ALIGNED_H_
#define LOCI_ENCODER_KERNELS_ALIGNED_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace loci {

// A fixed number of floats, aligned to 64 bytes and zero at first. Movable. Thread-compatible.
class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(int64_t size) : size_(size) {
    if (size == 0) return;
    data_.reset(static_cast<float*>(::operator new (static_cast<size_t>(size) * sizeof(float), std::align_val_t{64})));
    std::memset(data_.get(), 0, static_cast<size_t>(size) * sizeof(float));
  }
  AlignedFloats(AlignedFloats&& other) noexcept : data_(std::move(other.data_)), size_(other.size_) { other.size_ = 0; }
  AlignedFloats& operator=(AlignedFloats&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = other.size_;
    other.size_ = 0;
    return *this;
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  int64_t size_bytes() const { return size_ * static_cast<int64_t>(sizeof(float)); }
  float& operator[](int64_t i) { return data_.get()[i]; }
  float operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<float[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_ALIGNED_H_
