"""What the pages show of Coluber with torch runs."""

import documents


def test_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = [documents.run_page(page, "torch", tmp_path) for page in documents.PAGES]
    assert sum(ran) >= 2
    assert "torch.Size([1, 100, 256])" in capsys.readouterr().out
