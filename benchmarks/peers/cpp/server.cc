// A compiled ext_proc server without policies: gRPC's asynchronous C++ API with one completion queue, as in the gRPC
// tutorial. It sets one static header in each header phase and lets bodies pass. Prints the port it listens on.

#include <grpcpp/grpcpp.h>

#include <iostream>
#include <memory>

#include "ext_proc.grpc.pb.h"

namespace ext_proc = envoy::service::ext_proc::v3;

namespace {

constexpr int kOverwriteIfExistsOrAdd = 2;

void SetHeader(ext_proc::PhaseResponse* phase) {
  auto* option = phase->mutable_response()->mutable_header_mutation()->add_set_headers();
  option->mutable_header()->set_key("x-gateway");
  option->mutable_header()->set_raw_value("edge-1");
  option->set_append_action(kOverwriteIfExistsOrAdd);
}

ext_proc::ProcessingResponse Answer(const ext_proc::ProcessingRequest& request) {
  ext_proc::ProcessingResponse reply;
  switch (request.request_case()) {
    case ext_proc::ProcessingRequest::kRequestHeaders:
      SetHeader(reply.mutable_request_headers());
      break;
    case ext_proc::ProcessingRequest::kResponseHeaders:
      SetHeader(reply.mutable_response_headers());
      break;
    case ext_proc::ProcessingRequest::kRequestBody:
      reply.mutable_request_body();
      break;
    case ext_proc::ProcessingRequest::kResponseBody:
      reply.mutable_response_body();
      break;
    default:
      break;
  }
  return reply;
}

// One stream. Each of its operations comes back from the completion queue with this object as tag.
class Call {
 public:
  Call(ext_proc::ExternalProcessor::AsyncService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), stream_(&context_) {
    service_->RequestProcess(&context_, &stream_, queue_, queue_, this);
  }

  void Proceed(bool ok) {
    switch (state_) {
      case State::kAccept:
        if (!ok) {
          delete this;
          return;
        }
        new Call(service_, queue_);
        Read();
        return;
      case State::kRead:
        if (!ok) {
          Finish();
          return;
        }
        state_ = State::kWrite;
        stream_.Write(Answer(request_), this);
        return;
      case State::kWrite:
        if (ok) {
          Read();
        } else {
          Finish();
        }
        return;
      case State::kFinish:
        delete this;
        return;
    }
  }

 private:
  enum class State { kAccept, kRead, kWrite, kFinish };

  void Read() {
    state_ = State::kRead;
    stream_.Read(&request_, this);
  }

  void Finish() {
    state_ = State::kFinish;
    stream_.Finish(grpc::Status::OK, this);
  }

  ext_proc::ExternalProcessor::AsyncService* service_;
  grpc::ServerCompletionQueue* queue_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<ext_proc::ProcessingResponse, ext_proc::ProcessingRequest> stream_;
  ext_proc::ProcessingRequest request_;
  State state_ = State::kAccept;
};

}  // namespace

int main() {
  ext_proc::ExternalProcessor::AsyncService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::cerr << "cannot listen on 127.0.0.1\n";
    return 1;
  }
  std::cout << port << std::endl;
  new Call(&service, queue.get());
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
    static_cast<Call*>(tag)->Proceed(ok);
  }
  return 0;
}
