"""One framework a file, all with the same verbs over the same core."""
