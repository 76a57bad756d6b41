#include "serve/ticket.h"

#include "base/error.h"

namespace coterie::serve {

void send_failure(Ticket& ticket, const std::exception_ptr& error, const Usage& usage) {
  RequestFailed failed{.usage = usage};
  try {
    std::rethrow_exception(error);
  } catch (const base::Error& e) {
    failed.kind = e.kind(), failed.where = e.where(), failed.message = e.message(), failed.hint = e.hint();
  } catch (const std::bad_alloc&) {
    failed.kind = base::ErrorKind::out_of_memory, failed.message = "out of memory";
  } catch (const std::exception& e) {
    failed.message = e.what();
  } catch (...) {
    failed.message = "an error of unknown kind";
  }
  ticket.send(std::move(failed));
}

}  // namespace coterie::serve
