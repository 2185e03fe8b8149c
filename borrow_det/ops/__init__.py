"""Pure jnp building blocks: boxes, anchors, matching, losses, non-maximum suppression."""
