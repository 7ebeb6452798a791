package lab

// OnThread is onThread for the process that the tests start.
var OnThread = onThread
