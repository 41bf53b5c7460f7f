"""Ten thousand connections: the server goes on serving, and when no more fit it turns away who comes and lets in who comes later.

LOCI_CONNECTIONS (default 10000, fewer where the processes may not have so many files) connections that speak HTTP/2 and then say nothing.
The server is $LOCI_SERVER_BINARY.
"""

import os
import re
import resource
import socket
import tempfile
import time
import unittest

import grpc

from loci_server import KNOWN, ReflectionClient, ServerProcess, main

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
CONNECTIONS = min(int(os.environ.get("LOCI_CONNECTIONS", "10000")), HARD_LIMIT - 1500)
# The preface of HTTP/2 and an empty SETTINGS frame.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def memory_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1024


class Crowd:
    """Connections that are held open."""

    def __init__(self, address: str, count: int) -> None:
        host, port = address.rsplit(":", 1)
        self.sockets = []
        for _ in range(count):
            connection = socket.create_connection((host, int(port)), timeout=20)
            connection.sendall(HELLO)
            self.sockets.append(connection)

    def answered(self) -> int:
        """How many the server speaks to; it has closed the others."""
        count = 0
        for connection in self.sockets:
            try:
                count += bool(connection.recv(1))
            except OSError:
                pass
        return count

    def leave(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.sockets.clear()


def health_on_a_new_connection(address: str) -> int:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", lambda message: message.SerializeToString(), KNOWN["HealthCheckResponse"].FromString)
        return check(KNOWN["HealthCheckRequest"](service=""), timeout=20).status


class ConnectionsTest(unittest.TestCase):
    def test_ten_thousand_connections_do_not_stop_the_server(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))
        server = ServerProcess()
        client = ReflectionClient(server.address)
        client.ingest({"store": "s"}, [{"passages": [client.message("Passage", id="a", text="still here")]}])

        def search():
            begin = time.monotonic()
            reply = client.call("RetrievalService.Search", store="s", top_k=1, queries=[client.message("Query", text="still here")])
            self.assertEqual(reply.results[0].hits[0].id, "a")
            return time.monotonic() - begin

        before_mib = memory_mib(server.process.pid)
        begin = time.monotonic()
        crowd = Crowd(server.address, CONNECTIONS)
        self.assertEqual(crowd.answered(), CONNECTIONS)
        seconds = time.monotonic() - begin
        slowest = max(search() for _ in range(20))
        self.assertEqual(health_on_a_new_connection(server.address), 1)
        during_mib = memory_mib(server.process.pid)
        crowd.leave()
        self.assertEqual(health_on_a_new_connection(server.address), 1)
        print(f"{CONNECTIONS} connections in {seconds:.1f} s: {before_mib:.0f} -> {during_mib:.0f} MiB "
              f"({(during_mib - before_mib) * 1024 / CONNECTIONS:.1f} KiB each), slowest search {slowest * 1000:.1f} ms", flush=True)
        self.assertLess((during_mib - before_mib) * 1024 / CONNECTIONS, 100, "KiB a connection")
        client.close()
        self.assertEqual(server.stop(), 0)

    def test_a_full_house_turns_away_and_lets_in_who_comes_later(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txtpb") as config:
            config.write("limits { max_connections: 50 }")
            config.flush()
            server = ServerProcess(flags=["--config", config.name])
            client = ReflectionClient(server.address)
            self.assertEqual(client.call("AdminService.GetServerInfo").limits.max_connections, 50)
            crowd = Crowd(server.address, 80)
            self.assertLessEqual(crowd.answered(), 49)
            self.assertEqual(client.health(), 1, "who is in stays in")
            with self.assertRaises(grpc.RpcError):
                health_on_a_new_connection(server.address)
            crowd.leave()
            for _ in range(100):
                try:
                    self.assertEqual(health_on_a_new_connection(server.address), 1)
                    break
                except grpc.RpcError:
                    time.sleep(0.1)
            else:
                self.fail("nobody is let in again")
            client.close()
            self.assertEqual(server.stop(), 0)

    def test_too_few_files_leave_fewer_connections(self):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        server = None
        # The server inherits it, and may not raise it above.
        wrapper = tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False)
        try:
            wrapper.write(f'#!/bin/sh\nulimit -n 300\nexec "{os.path.abspath(os.environ["LOCI_SERVER_BINARY"])}" "$@"\n')
            wrapper.close()
            os.chmod(wrapper.name, 0o755)
            binary, os.environ["LOCI_SERVER_BINARY"] = os.environ["LOCI_SERVER_BINARY"], wrapper.name
            try:
                server = ServerProcess()
            finally:
                os.environ["LOCI_SERVER_BINARY"] = binary
            client = ReflectionClient(server.address)
            self.assertEqual(client.call("AdminService.GetServerInfo").limits.max_connections, 225)
            crowd = Crowd(server.address, 400)
            self.assertLessEqual(crowd.answered(), 224)
            self.assertEqual(client.health(), 1)
            client.ingest({"store": "s"}, [{"passages": [client.message("Passage", id="a", text="there are files left for a store")]}])
            crowd.leave()
            time.sleep(0.5)
            self.assertEqual(health_on_a_new_connection(server.address), 1)
            self.assertIn("too few for the 16384 connections", server.log())
            client.close()
            self.assertEqual(server.stop(), 0)
        finally:
            os.unlink(wrapper.name)
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)


if __name__ == "__main__":
    main()
