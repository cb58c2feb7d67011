"""Ask the process of this container how it is; exit status 0 if it serves.

SuperLink, superexec and SuperNode answer alike, by gRPC's health protocol, on a port that nothing
outside the container reaches.
"""

import os
import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

SECONDS = 5

with grpc.insecure_channel(os.environ.get("POTARA_HEALTH", "127.0.0.1:8001")) as channel:
    try:
        status = HealthStub(channel).Check(HealthCheckRequest(), timeout=SECONDS).status
    except grpc.RpcError as error:
        sys.exit(f"no answer: {error.code().name}")
sys.exit(status != HealthCheckResponse.SERVING)
