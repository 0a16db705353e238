"""Documents over HTTP, read by the real workers of a real cluster."""

from __future__ import annotations

import pytest

from benchmarks.documents import cell_f1
from tests.e2e.cluster import Cluster
from tests.support.documents import invoice, lined_table, picture

pytestmark = pytest.mark.cluster
# Reading a picture of a page takes seconds of a core.
TIMEOUT_MS = 240_000


def test_documents_over_http(cluster: Cluster) -> None:
    made = invoice(21, style="bare")
    with cluster.client() as http:
        http.timeout = TIMEOUT_MS / 1000
        http.headers["X-Argus-Timeout-Ms"] = str(TIMEOUT_MS)
        text = http.post("/v1/documents/text", files={"document": ("a.pdf", made.pdf, "application/pdf")})
        assert text.status_code == 200, text.text
        assert [line["text"] for line in text.json()["pages"][0]["lines"]] == made.pages[0]
        image = picture(made.pdf)
        found = http.post("/v1/documents/table", content=image, headers={"content-type": "image/png"})
        assert found.status_code == 200, found.text
        (read,) = found.json()["tables"]
        assert cell_f1(made.tables, [[read["headers"], *read["rows"]]]) >= 0.9
        summary = http.post("/v1/documents/summary", content=made.pdf, headers={"content-type": "application/pdf"})
        assert summary.json()["type"] == "invoice"
        prices = [["Part", "Count", "Price"], *[[f"Part {n}", str(3 * n), f"{n}.50"] for n in range(1, 9)]]
        listed = http.post(
            "/v1/documents/summary", content=lined_table(prices), headers={"content-type": "application/pdf"}
        )
        assert listed.json()["type"] == "table"
        broken = http.post("/v1/documents/text", content=b"%PDF-1.7 ?", headers={"content-type": "application/pdf"})
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_document")
        assert http.get("/v1/readyz").status_code == 200
        assert http.get("/v1/models/ocr").status_code == 200
