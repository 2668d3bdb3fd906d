"""The messages of the Open Inference Protocol's gRPC service, built from the table below when this is first imported.

Names and field numbers are those of the public protocol (https://github.com/kserve/open-inference-protocol), and of Triton's
extensions of it for statistics, configuration and the model repository; the tests hold them against both clients. The
messages live in a pool of their own, so that a client's library in the same process keeps its own by the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"  # https://github.com/grpc/grpc/blob/master/doc/health-checking.md

# A message, then its fields as TYPE NAME NUMBER. TYPE* is repeated, TYPE{} a map from text, TYPE| one of a choice.
_TABLE = """
ServerLiveRequest
ServerLiveResponse
    bool live 1
ServerReadyRequest
ServerReadyResponse
    bool ready 1
ModelReadyRequest
    string name 1
    string version 2
ModelReadyResponse
    bool ready 1
ServerMetadataRequest
ServerMetadataResponse
    string name 1
    string version 2
    string* extensions 3
ModelMetadataRequest
    string name 1
    string version 2
ModelMetadataResponse.TensorMetadata
    string name 1
    string datatype 2
    int64* shape 3
ModelMetadataResponse
    string name 1
    string* versions 2
    string platform 3
    ModelMetadataResponse.TensorMetadata* inputs 4
    ModelMetadataResponse.TensorMetadata* outputs 5
InferParameter
    bool| bool_param 1
    int64| int64_param 2
    string| string_param 3
    double| double_param 4
    uint64| uint64_param 5
InferTensorContents
    bool* bool_contents 1
    int32* int_contents 2
    int64* int64_contents 3
    uint32* uint_contents 4
    uint64* uint64_contents 5
    float* fp32_contents 6
    double* fp64_contents 7
    bytes* bytes_contents 8
ModelInferRequest.InferInputTensor
    string name 1
    string datatype 2
    int64* shape 3
    InferParameter{} parameters 4
    InferTensorContents contents 5
ModelInferRequest.InferRequestedOutputTensor
    string name 1
    InferParameter{} parameters 2
ModelInferRequest
    string model_name 1
    string model_version 2
    string id 3
    InferParameter{} parameters 4
    ModelInferRequest.InferInputTensor* inputs 5
    ModelInferRequest.InferRequestedOutputTensor* outputs 6
    bytes* raw_input_contents 7
ModelInferResponse.InferOutputTensor
    string name 1
    string datatype 2
    int64* shape 3
    InferParameter{} parameters 4
    InferTensorContents contents 5
ModelInferResponse
    string model_name 1
    string model_version 2
    string id 3
    InferParameter{} parameters 4
    ModelInferResponse.InferOutputTensor* outputs 5
    bytes* raw_output_contents 6
ModelStreamInferResponse
    string error_message 1
    ModelInferResponse infer_response 2
ModelConfigRequest
    string name 1
    string version 2
ModelInput
    string name 1
    int32 data_type 2
    int64* dims 4
ModelOutput
    string name 1
    int32 data_type 2
    int64* dims 3
ModelConfig
    string name 1
    string platform 2
    int32 max_batch_size 4
    ModelInput* input 5
    ModelOutput* output 6
    string backend 17
ModelConfigResponse
    ModelConfig config 1
ModelStatisticsRequest
    string name 1
    string version 2
StatisticDuration
    uint64 count 1
    uint64 ns 2
InferStatistics
    StatisticDuration success 1
    StatisticDuration fail 2
ModelStatistics
    string name 1
    string version 2
    uint64 last_inference 3
    uint64 inference_count 4
    uint64 execution_count 5
    InferStatistics inference_stats 6
ModelStatisticsResponse
    ModelStatistics* model_stats 1
ModelRepositoryParameter
    bool| bool_param 1
    int64| int64_param 2
    string| string_param 3
    bytes| bytes_param 4
RepositoryIndexRequest
    string repository_name 1
    bool ready 2
RepositoryIndexResponse.ModelIndex
    string name 1
    string version 2
    string state 3
    string reason 4
RepositoryIndexResponse
    RepositoryIndexResponse.ModelIndex* models 1
RepositoryModelLoadRequest
    string repository_name 1
    string model_name 2
    ModelRepositoryParameter{} parameters 3
RepositoryModelLoadResponse
    string model_name 1
    bool isLoaded 2
RepositoryModelUnloadRequest
    string repository_name 1
    string model_name 2
    ModelRepositoryParameter{} parameters 3
RepositoryModelUnloadResponse
    string model_name 1
    bool isUnloaded 2
HealthCheckRequest
    string service 1
HealthCheckResponse
    int32 status 1
"""

_Field: Any = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "uint32": _Field.TYPE_UINT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="modelyard/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}

    def message(name: str) -> descriptor_pb2.DescriptorProto:
        if name not in made:
            outer, _, inner = name.rpartition(".")
            made[name] = message(outer).nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        return made[name]

    name = ""
    for line in _TABLE.strip().splitlines():
        if line[0] == " ":
            kind, field, number = line.split()
            _add_field(message(name), name, kind, field).number = int(number)
        else:
            name = line
            message(name)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, path: str, kind: str, name: str) -> Any:
    """The new field, as its type in the table says."""
    bare = kind.rstrip("*{}|")
    field = message.field.add(name=name, label=_Field.LABEL_OPTIONAL if kind[-1] not in "*}" else _Field.LABEL_REPEATED)
    if kind.endswith("{}"):  # a map is a list of entries on the wire
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _typed(entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL), "string")
        _typed(entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL), bare)
        bare = f"{path}.{entry.name}"
    elif kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    _typed(field, bare)
    return field


def _typed(field: Any, kind: str) -> None:
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def message(name: str) -> Any:
    """The class of a message by its name in the table."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
