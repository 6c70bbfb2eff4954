"""What plugins see of hftrain: contracts, the registry, and the template of a tracker."""
