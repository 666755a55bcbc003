// Stands in for a header of TVM that its wheel does not ship; see io.h.
#pragma once
