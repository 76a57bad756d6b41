"""Starts `coterie serve` on a free port, and asks it over plain sockets: the standard library alone."""

import http.client
import json
import os
import signal
import subprocess
import tempfile


class Server:
    def __init__(self, coterie, model, *options, env=None):
        self.coterie, self.model = coterie, model
        self.errors = tempfile.TemporaryFile("w+")
        command = [coterie, "serve", model, "--port", "0", "--cache-memory", "64M", *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        env={**os.environ, **(env or {})})
        self.port = None
        for line in self.process.stdout:
            if line.startswith("listening on http://"):
                self.port = int(line.rsplit(":", 1)[1])
                break
        if self.port is None:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{self.log()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.stdout.close()
        self.errors.close()

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method, path, body=None, headers=None):
        """The status, the headers and the body, decoded where it is JSON."""
        connection = self.connect()
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.headers.get("Content-Type", "").startswith("application/json"):
            content = json.loads(content)
        return response.status, response.headers, content

    def post(self, path, body, status=200):
        found, _, content = self.ask("POST", path, body)
        assert found == status, f"{path}: {found}, {content}"
        return content

    def get(self, path, status=200):
        found, _, content = self.ask("GET", path)
        assert found == status, f"{path}: {found}, {content}"
        return content

    def stream(self, path, body):
        """The objects of a stream as they come."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])
        connection.close()
