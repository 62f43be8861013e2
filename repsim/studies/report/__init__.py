"""One page per run: what a folder of results says, in one file that opens in any browser and asks no network."""

from repsim.studies.report.page import write_index, write_page

__all__ = ["write_index", "write_page"]
