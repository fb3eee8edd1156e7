"""What the pages show of Coluber without torch runs."""

import documents


def test_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = [documents.run_page(page, "numpy", tmp_path) for page in documents.PAGES]
    assert sum(ran) >= 3
    assert "nats per token" in capsys.readouterr().out
