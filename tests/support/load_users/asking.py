"""Asks over HTTP and gRPC in turn; the answer must be the question's number."""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from benchmarks.loadtest.user import Answer, Due, Failed, OpenLoopUser


class Asking(OpenLoopUser):
    """Even numbers over HTTP, odd ones over gRPC, every tenth is refused."""

    def kind(self, due: Due) -> str:
        return "grpc" if due.number % 2 else "http"

    def send(self, due: Due) -> Answer:
        if due.number % 2:
            request = service_pb2.ServerLiveRequest()
            if not self.grpc.ServerLive(request, timeout=10, metadata=self.metadata).live:
                raise Failed("not_live")
            return Answer("grpc", "live", tokens=3)
        refuse = "&refuse=1" if due.number % 10 == 0 else ""
        body = self.accept(self.http.get(f"/ask?number={due.number}{refuse}"))
        if body["number"] != due.number or body["key"] != (self.key or ""):
            raise Failed("wrong_answer", str(body))
        return Answer("http", "ask", usd=0.001)
