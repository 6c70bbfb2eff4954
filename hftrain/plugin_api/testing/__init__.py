"""Checks that the author of a plugin runs on their own class.

In a test of the plugin's own distribution::

    from hftrain.plugin_api.testing import check_tracker


    def test_the_contract(tmp_path):
        check_tracker(CsvTracker, tmp_path)
"""

from hftrain.plugin_api.testing.common import ContractError
from hftrain.plugin_api.testing.hub import check_hub_publisher
from hftrain.plugin_api.testing.search import check_search_backend
from hftrain.plugin_api.testing.tracker import check_tracker

__all__ = ["ContractError", "check_hub_publisher", "check_search_backend", "check_tracker"]
