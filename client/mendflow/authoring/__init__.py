"""The authoring API: steps, workflows, and the calls that workflow code makes."""
