"""Face models of the drawn world: detector and recogniser in the outer form of InsightFace's, trained on drawings."""
