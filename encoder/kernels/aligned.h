// Numbers on cache lines.
#ifndef LOCI_ENCODER_KERNELS_ALIGNED_H_
#define LOCI_ENCODER_KERNELS_ALIGNED_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace loci {

// A fixed number of values of a plain type, aligned to 64 bytes and zero at first. Movable. Thread-compatible.
template <typename T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t size) : size_(size) {
    if (size == 0) return;
    data_.reset(static_cast<T*>(::operator new (static_cast<size_t>(size) * sizeof(T), std::align_val_t{64})));
    std::memset(data_.get(), 0, static_cast<size_t>(size) * sizeof(T));
  }
  AlignedArray(AlignedArray&& other) noexcept : data_(std::move(other.data_)), size_(other.size_) { other.size_ = 0; }
  AlignedArray& operator=(AlignedArray&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = other.size_;
    other.size_ = 0;
    return *this;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  int64_t size_bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }
  T& operator[](int64_t i) { return data_.get()[i]; }
  T operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

using AlignedFloats = AlignedArray<float>;

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_ALIGNED_H_
