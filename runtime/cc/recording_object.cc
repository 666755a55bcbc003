#include "recording_object.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/object.h>
#include <tvm/ffi/reflection/registry.h>

#include <memory>
#include <optional>
#include <utility>

#include "recording.h"

namespace ddimcache::opencl {
namespace {

using tvm::ffi::AnyView;
using tvm::ffi::Function;
using tvm::ffi::Object;
using tvm::ffi::ObjectRef;
using tvm::ffi::String;
using tvm::ffi::Tensor;

class RecordingObj : public Object {
 public:
  explicit RecordingObj(std::unique_ptr<Recording> recording) : recording_(std::move(recording)) {}

  void Replay() { recording_->Replay(); }
  String Describe() { return recording_->ToJson(); }

  void Update(int64_t launch, int64_t argument, AnyView value) {
    if (launch < 0 || argument < 0) {
      TVM_FFI_THROW(IndexError) << "launch " << launch << ", argument " << argument
                                << ": launches and arguments are counted from 0";
    }
    TVMFFIAny plain = value.CopyToTVMFFIAny();
    if (const std::optional<Tensor> given = value.as<Tensor>()) {
      const DLTensor& tensor = *given->GetDLTensorPtr();
      // A kernel takes the buffer from its start; what it does with an offset is known to its host code only.
      if (tensor.byte_offset != 0) {
        TVM_FFI_THROW(ValueError) << "a recorded argument cannot become a tensor that starts "
                                  << tensor.byte_offset << " bytes into its buffer: copy it first";
      }
      plain = AnyView(tensor.data).CopyToTVMFFIAny();
    }
    recording_->Update(static_cast<size_t>(launch), static_cast<size_t>(argument), plain);
  }

  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("ddimcache.opencl.Recording", RecordingObj, Object);

 private:
  const std::unique_ptr<Recording> recording_;
};

}  // namespace

void RegisterRecordings() {
  namespace reflection = tvm::ffi::reflection;
  reflection::ObjectDef<RecordingObj>(reflection::init(false))
      .def("replay", &RecordingObj::Replay)
      .def("update", &RecordingObj::Update)
      .def("describe", &RecordingObj::Describe);
  reflection::GlobalDef()
      .def("ddimcache.opencl.record",
           [](int device_id, Function function) {
             std::unique_ptr<Recording> recording =
                 Recording::Record(Device::At(device_id), [&] { function(); });
             return ObjectRef(tvm::ffi::make_object<RecordingObj>(std::move(recording)));
           })
      .def("ddimcache.opencl.replay_allowed", ReplayAllowed);
}

}  // namespace ddimcache::opencl
