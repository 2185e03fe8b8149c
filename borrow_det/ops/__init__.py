"""Pure jnp building blocks: boxes, anchors, matching, losses, suppression."""
