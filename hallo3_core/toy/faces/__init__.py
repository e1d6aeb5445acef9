"""Face models of the drawn world: detector and recogniser with InsightFace's interface, trained on drawings."""
