"""A gRPC client: `client.py PORT HOST CA COOKIE CALL...` calls through the gateway at PORT, and prints a line for each."""

import sys
import time

import grpc

port, host, ca, cookie, *calls = sys.argv[1:]
with open(ca, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
options = (("grpc.ssl_target_name_override", host), ("grpc.default_authority", host), ("grpc.enable_retries", 0))
channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
metadata = [("cookie", cookie)] if cookie else []


def unary(text, timeout=60):
    call = channel.unary_unary("/test.Echo/Unary").with_call
    answer, call = call(text.encode(), timeout=timeout, metadata=metadata)
    trailers = {key: value for key, value in call.trailing_metadata()}
    return f"{answer.decode()} trailer={trailers.get('x-sum')}"


def down(count):
    got = list(channel.unary_stream("/test.Echo/Down")(count.encode(), timeout=60, metadata=metadata))
    return f"{len(got)} last={got[-1].decode()}"


def up(count):
    pieces = (b"x" * 1000 for _ in range(int(count)))
    return channel.stream_unary("/test.Echo/Up")(pieces, timeout=60, metadata=metadata).decode()


def both(count):
    """Each message is sent only when the answer to the one before has come."""
    import queue

    to_send = queue.Queue()
    answers = channel.stream_stream("/test.Echo/Both")(iter(to_send.get, None), timeout=60, metadata=metadata)
    for number in range(int(count)):
        to_send.put(b"%d" % number)
        assert next(answers) == b"echo %d" % number
    to_send.put(None)
    rest = list(answers)
    return f"{count} rest={len(rest)} end={dict(answers.trailing_metadata()).get('x-end')}"


def parallel(count):
    call = channel.unary_unary("/test.Echo/Unary")
    futures = [call.future(b"%d" % number, timeout=60, metadata=metadata) for number in range(int(count))]
    assert [future.result() for future in futures] == [b"echo %d" % number for number in range(int(count))]
    return count


for call in calls:
    name, _, argument = call.partition(":")
    begun = time.monotonic()
    try:
        if name == "deadline":
            said = unary("slow", timeout=float(argument))
        else:
            said = {"unary": unary, "down": down, "up": up, "both": both, "parallel": parallel}[name](argument)
        print(f"{name} {said}", flush=True)
    except grpc.RpcError as error:
        trailers = {key: value for key, value in error.trailing_metadata() or ()}
        print(f"{name} {error.code().name} {error.details()} why={trailers.get('x-why')}", flush=True)
