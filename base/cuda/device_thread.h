// What a kernel body sees of the thread that runs it, on the device. For .cu files alone; base/cuda/testing/simulated_grid.h has the same
// for the host:
//
//   template <typename Thread> LOCI_BODY void MyBody(Thread& thread, const MyArgs& args) {...}
//   __global__ void MyKernel(MyArgs args) { DeviceThread thread; MyBody(thread, args); }
//
// Blocks are one-dimensional, of whole warps. All 32 lanes of a warp must reach ShuffleXor, MultiplyAdd... and LoadMatrices... together, all
// threads of a block Sync; none may have returned.
#ifndef LOCI_BASE_CUDA_DEVICE_THREAD_H_
#define LOCI_BASE_CUDA_DEVICE_THREAD_H_

#include <type_traits>

#include "base/cuda/element.h"

namespace loci::cuda {

class DeviceThread {
 public:
  __device__ __forceinline__ int block_x() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ int block_y() const { return static_cast<int>(blockIdx.y); }
  __device__ __forceinline__ int grid_x() const { return static_cast<int>(gridDim.x); }
  __device__ __forceinline__ int block_size() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) & 31; }
  __device__ __forceinline__ int warp() const { return static_cast<int>(threadIdx.x) >> 5; }

  __device__ __forceinline__ void Sync() const { __syncthreads(); }

  // The value of the lane whose number differs in the bits of `mask`.
  __device__ __forceinline__ float ShuffleXor(float value, int mask) const { return __shfl_xor_sync(0xffffffffu, value, mask); }

  // c[16, 8] += a[16, 16] b[16, 8] over a warp, T bfloat16 or float16: PTX's mma.m16n8k16. With g = lane / 4 and t = lane % 4, a lane has
  //   a[0] = A[g, 2t..2t+1], a[1] = A[g+8, 2t..], a[2] = A[g, 2t+8..], a[3] = A[g+8, 2t+8..]
  //   b0 = B[2t..2t+1, g], b1 = B[2t+8.., g]        c[0..1] = C[g, 2t..2t+1], c[2..3] = C[g+8, 2t..]
  template <typename T>
  __device__ __forceinline__ void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    if constexpr (std::is_same_v<T, Bfloat16>) {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }

  // Four 8x8 matrices of 16-bit elements in shared memory, transposed: lane i gives the address of row i % 8 of matrix i / 8, 16 bytes,
  // aligned to them; out[m] is then, with g and t as above, matrix m's elements [2t, g] and [2t+1, g]. PTX's ldmatrix.x4.trans.
  __device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&out)[4], const void* row) const {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }

  // The same without transposing: out[m] is matrix m's elements [g, 2t] and [g, 2t+1], or, of bytes, its [g, 4t..4t+3]. PTX's ldmatrix.x4.
  __device__ __forceinline__ void LoadMatrices(uint32_t (&out)[4], const void* row) const {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }

  // c[16, 8] += a[16, 32] b[32, 8] over a warp, of signed bytes, exact: PTX's mma.m16n8k32. As MultiplyAdd, with 4 bytes in place of each pair:
  //   a[0] = A[g, 4t..4t+3], a[1] = A[g+8, 4t..], a[2] = A[g, 4t+16..], a[3] = A[g+8, 4t+16..]
  //   b0 = B[4t..4t+3, g], b1 = B[4t+16.., g]        c[0..1] = C[g, 2t..2t+1], c[2..3] = C[g+8, 2t..]
  __device__ __forceinline__ void MultiplyAddInt8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  // 16 bytes from global to shared memory, both aligned to them, which are there for this thread once WaitCopies says so, and for others after a
  // Sync behind that. CommitCopies closes a group of copies, which may be empty; WaitCopies waits until at most `pending` groups are under way.
  __device__ __forceinline__ void CopyAsync16(void* to, const void* from) const {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(from) : "memory");
  }
  __device__ __forceinline__ void CommitCopies() const { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
  template <int pending>
  __device__ __forceinline__ void WaitCopies() const {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
  }

  // Adds to what is in global or shared memory; returns what was there.
  __device__ __forceinline__ int32_t AtomicAdd(int32_t* to, int32_t value) const { return atomicAdd(to, value); }

  // The block's shared memory, aligned to 16 bytes.
  __device__ __forceinline__ void* shared() const {
    extern __shared__ uint4 loci_shared_memory[];
    return loci_shared_memory;
  }
};

}  // namespace loci::cuda

#endif  // LOCI_BASE_CUDA_DEVICE_THREAD_H_
