"""A gRPC server that echoes, on a port of its own; `--tls CERT KEY` with TLS. Prints its port, then what it was asked."""

import sys
import threading
import time
from concurrent import futures

import grpc

health = {"status": 1}


def unary(request, context):
    if request == b"metadata":
        return repr(sorted((key, str(value)) for key, value in context.invocation_metadata())).encode()
    if request == b"fail":
        context.set_trailing_metadata((("x-why", "as it was asked"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as it was asked: %")
    if request == b"slow":
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(60)
        print("cancelled" if not context.is_active() else "still there", flush=True)
    if request == b"unhealthy":
        health["status"] = 2
    context.set_trailing_metadata((("x-sum", str(len(request))),))
    return b"echo " + request


def server_stream(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    for request in requests:
        yield b"echo " + request
    context.set_trailing_metadata((("x-end", "seen"),))


def check(request, context):
    return b"\x08" + bytes([health["status"]])


def main():
    options = (("grpc.so_reuseport", 0),)
    server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(server_stream),
        "Up": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("test.Echo", methods),
        grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
        ),
    ))
    if len(sys.argv) > 1 and sys.argv[1] == "--tls":
        with open(sys.argv[2], "rb") as cert, open(sys.argv[3], "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"gRPC on {port}", flush=True)
    while True:
        time.sleep(3600)


main()
