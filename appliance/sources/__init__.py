# SPDX-License-Identifier: Apache-2.0
"""Sources of desired state: policy directory, feed directory; a datastore is another of the same kind."""

from appliance.sources.base import Source, SourceError, SourcesError, SourceSnapshot
from appliance.sources.feed_directory import FeedDirectory
from appliance.sources.policy_directory import PolicyDirectory

__all__ = ["FeedDirectory", "PolicyDirectory", "Source", "SourceError", "SourceSnapshot", "SourcesError"]
