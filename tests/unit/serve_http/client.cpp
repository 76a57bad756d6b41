#include "client.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace coterie::serve::test {

namespace {
using Clock = std::chrono::steady_clock;
}

Client::Client(uint16_t port, int receive_buffer) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
  if (receive_buffer > 0) ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) close();
}

Client::Client(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) close();
}

Client::~Client() { close(); }

void Client::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void Client::end_sending() { ::shutdown(socket_, SHUT_WR); }

bool Client::send(const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t sent = ::send(socket_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += static_cast<size_t>(sent);
  }
  return true;
}

std::string Client::read_until(const std::string& end, std::chrono::milliseconds most) {
  const auto deadline = Clock::now() + most;
  while (true) {
    const size_t found = end.empty() ? std::string::npos : held_.find(end);
    if (found != std::string::npos) {
      const std::string text = held_.substr(0, found + end.size());
      held_.erase(0, found + end.size());
      return text;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd look{socket_, POLLIN, 0};
    char bytes[65536];
    const ssize_t read =
        left > 0 && ::poll(&look, 1, static_cast<int>(left)) > 0 ? ::recv(socket_, bytes, sizeof(bytes), 0) : 0;
    if (read <= 0) return std::exchange(held_, {});
    held_.append(bytes, static_cast<size_t>(read));
  }
}

std::string Client::read_exactly(size_t bytes) {
  std::string text = std::exchange(held_, {});
  while (text.size() < bytes) {
    pollfd look{socket_, POLLIN, 0};
    char more[65536];
    const ssize_t read = ::poll(&look, 1, 10'000) > 0 ? ::recv(socket_, more, sizeof(more), 0) : 0;
    if (read <= 0) break;
    text.append(more, static_cast<size_t>(read));
  }
  if (text.size() > bytes) held_ = text.substr(bytes);
  return text.substr(0, bytes);
}

std::string Client::read_all(std::chrono::milliseconds most) { return read_until("", most); }

bool Client::closed(std::chrono::milliseconds most) {
  const auto deadline = Clock::now() + most;
  while (Clock::now() < deadline) {
    pollfd look{socket_, POLLIN, 0};
    char bytes[65536];
    if (::poll(&look, 1, 50) > 0 && ::recv(socket_, bytes, sizeof(bytes), 0) <= 0) return true;
  }
  return false;
}

Reply read_reply(Client& client) {
  Reply reply;
  std::string head = client.read_until("\r\n\r\n");
  while (head.starts_with("HTTP/1.1 100")) head = client.read_until("\r\n\r\n");
  if (head.size() < 12) return reply;
  reply.status = std::stoi(head.substr(9, 3));
  for (size_t at = head.find("\r\n") + 2; at + 2 < head.size();) {
    const size_t end = head.find("\r\n", at), colon = head.find(':', at);
    std::string name = head.substr(at, colon - at);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    reply.headers[name] = head.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  if (reply.headers.count("content-length")) {
    const size_t length = std::stoul(reply.headers["content-length"]);
    reply.body = client.read_exactly(length);
  } else if (reply.headers["transfer-encoding"] == "chunked") {
    while (true) {
      const std::string line = client.read_until("\r\n");
      if (line.empty()) break;
      const size_t length = std::stoul(line, nullptr, 16);
      const std::string chunk = client.read_exactly(length + 2);
      if (length == 0 || chunk.size() < length + 2) break;
      reply.body += chunk.substr(0, length);
    }
  } else if (reply.status != 204) {
    reply.body = client.read_all();
  }
  return reply;
}

std::string get(const std::string& path, const std::string& headers) {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

std::string post(const std::string& path, const std::string& body, const std::string& headers) {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
}

Reply ask(uint16_t port, const std::string& request) {
  Client client(port);
  client.send(request);
  return read_reply(client);
}

}  // namespace coterie::serve::test
